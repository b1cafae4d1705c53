"""Feed training from worker processes until all examples are kept in memory, then from there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dnntrain.input.resident import ResidentPipeline
from dnntrain.input.streaming import StreamingPipeline
from dnntrain.protocols import PhaseMarker, StepBatch


class CachedPipeline:
    """Passes on the batches of `streaming`; from the start of an epoch on those of another pipeline, if there is one.

    `make_resident` returns a pipeline of the same batches once all training examples are kept, else
    None. The worker processes then end: without reading and decoding, one process is faster than the
    transfer. Which steps have which pipeline differs between a run and its resumed parts, so each batch
    lies in memory of its own, as in the streaming pipeline: kernels may sum in another order where the
    memory begins elsewhere.
    """

    name = "cached"

    def __init__(self, streaming: StreamingPipeline, make_resident: Callable[[], ResidentPipeline | None]) -> None:
        self._pipeline: StreamingPipeline | ResidentPipeline = streaming
        self._make_resident = make_resident
        self._mark: PhaseMarker | None = None
        self._epoch = -1
        self.steps_per_epoch = streaming.steps_per_epoch

    def take(self, step: int) -> StepBatch:
        """Return the micro-batches of this rank in optimizer step `step`."""
        if isinstance(self._pipeline, StreamingPipeline):
            epoch, _ = self._pipeline.locate_step(step)
            if epoch != self._epoch:
                self._epoch = epoch
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
        resident = self._make_resident()
        if resident is None:
            return
        self._pipeline.close()
        self._pipeline = resident
        if self._mark is not None:
            resident.mark_phases(self._mark)
