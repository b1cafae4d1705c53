"""Feed training from worker processes until all examples are kept in memory, then from there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dnntrain.input.resident import ResidentPipeline
from dnntrain.input.streaming import StreamingPipeline
from dnntrain.protocols import PhaseMarker, StepBatch


class CachedPipeline:
    """Passes on the batches of `streaming`, and from an epoch on, those of the pipeline of `make_resident`.

    That is the first epoch at whose start `can_gather` finds all training examples in memory. The
    worker processes then end: without reading and decoding, one process is faster than the transfer.
    Which steps have which pipeline differs between a run and its resumed parts, so each batch lies in
    memory of its own, as in the streaming pipeline: kernels may sum in another order where the memory
    begins elsewhere.
    """

    name = "cached"

    def __init__(
        self,
        streaming: StreamingPipeline,
        make_resident: Callable[[], ResidentPipeline],
        can_gather: Callable[[], bool],
    ) -> None:
        self._pipeline: StreamingPipeline | ResidentPipeline = streaming
        self._make_resident, self._can_gather = make_resident, can_gather
        self._mark: PhaseMarker | None = None
        self._epoch = -1
        self.steps_per_epoch = streaming.steps_per_epoch

    def take(self, step: int) -> StepBatch:
        """Return the micro-batches of this rank in optimizer step `step`."""
        if isinstance(self._pipeline, StreamingPipeline):
            epoch, _ = self._pipeline.locate_step(step)
            if epoch != self._epoch:
                self._epoch = epoch
                if self._can_gather():
                    self._leave_streaming()
        batch = self._pipeline.take(step)
        if isinstance(self._pipeline, StreamingPipeline):
            return batch
        return batch._replace(
            micro_batches=[replace(micro, inputs=micro.inputs.clone()) for micro in batch.micro_batches]
        )

    def get_skipped_examples(self) -> dict[str, str]:
        return self._pipeline.get_skipped_examples()

    def mark_phases(self, mark: PhaseMarker) -> None:
        self._mark = mark
        self._pipeline.mark_phases(mark)

    def close(self) -> None:
        self._pipeline.close()

    def _leave_streaming(self) -> None:
        self._pipeline.close()
        self._pipeline = self._make_resident()
        if self._mark is not None:
            self._pipeline.mark_phases(self._mark)
