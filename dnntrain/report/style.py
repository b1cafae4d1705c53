"""The looks of a report: one style sheet, dark and light, wide and narrow, screen and paper.

Colours keep a contrast of at least 4.5 to 1 for text and 3 to 1 for lines (WCAG 2.2 AA), in both schemes.
"""

from __future__ import annotations

#: Colours of curves, by tone: light scheme, dark scheme. The first eight differ also for colour-blind eyes.
TONES = (
    ("#2559c9", "#7fadff"),
    ("#c4480a", "#ff9d5c"),
    ("#0b7a55", "#4fcf9d"),
    ("#8a2fd0", "#cda2ff"),
    ("#b3255a", "#ff93b6"),
    ("#0c7089", "#62cfe6"),
    ("#7d6200", "#e3c454"),
    ("#5b5651", "#bdb7b0"),
)

_LIGHT = """
--page:#f6f7f9;--surface:#ffffff;--ink:#171a21;--soft:#545b69;--rule:#e1e4ea;--grid:#e8ebf0;--accent:#2559c9;
--good:#0b6b4a;--good-bg:#dcf5ea;--bad:#a81e2d;--bad-bg:#fde5e7;--wait:#7a5200;--wait-bg:#fdf0d3;--code:#f0f2f6;
""".strip()
_DARK = """
--page:#101217;--surface:#191c23;--ink:#e9ebf0;--soft:#a3abba;--rule:#2c313c;--grid:#272c36;--accent:#7fadff;
--good:#6fe0b1;--good-bg:#11392b;--bad:#ff9aa5;--bad-bg:#451a20;--wait:#f2c76a;--wait-bg:#3d2e0c;--code:#12151b;
""".strip()

#: Levels of a matrix cell: background and text, light and dark. Right answers are blue, wrong ones orange.
_RIGHT = (
    ("#eaf1fe", "#cfe0fd", "#a4c4fb", "#6c9df3", "#2559c9"),
    ("#1c2740", "#203459", "#274782", "#3462b5", "#7fadff"),
)
_WRONG = (
    ("#fef0e6", "#fddcc5", "#fcbc93", "#f59255", "#c4480a"),
    ("#33231a", "#4a2c1a", "#6e3b1a", "#a3521a", "#ff9d5c"),
)
_INK_LIGHT = ("#171a21", "#171a21", "#171a21", "#171a21", "#ffffff")
_INK_DARK = ("#e9ebf0", "#e9ebf0", "#e9ebf0", "#ffffff", "#101217")

_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1240px;margin:0 auto;padding:28px 24px 56px}
h1,h2,h3,p,figure,ul,ol{margin:0;padding:0}
h1{font-size:27px;line-height:1.25;letter-spacing:-.015em;overflow-wrap:anywhere}
h2{font-size:18px;letter-spacing:-.005em;margin:40px 0 12px}
h3{font-size:14px;font-weight:600}
.kicker{color:var(--soft);font-size:13px;margin-bottom:4px}
.title{display:flex;flex-wrap:wrap;gap:8px 14px;align-items:center}
.about{color:var(--soft);margin-top:8px;overflow-wrap:anywhere}
.reason{margin-top:10px;padding:9px 13px;border-radius:8px;background:var(--wait-bg);color:var(--wait);overflow-wrap:anywhere}
.reason.bad{background:var(--bad-bg);color:var(--bad)}
.pill{font-size:13px;font-weight:600;padding:3px 11px;border-radius:99px;background:var(--wait-bg);color:var(--wait)}
.pill.good{background:var(--good-bg);color:var(--good)}.pill.bad{background:var(--bad-bg);color:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin-top:22px}
.card{background:var(--surface);border:1px solid var(--rule);border-radius:12px;padding:13px 16px;min-width:0}
.card dt{color:var(--soft);font-size:13px}
.card dd{margin:2px 0 0;font-size:22px;font-weight:650;letter-spacing:-.01em;overflow-wrap:anywhere;line-height:1.25}
.card dd small{display:block;font-size:12.5px;font-weight:400;color:var(--soft);letter-spacing:0;margin-top:3px}
.card.main{border-color:var(--accent);box-shadow:inset 0 3px 0 var(--accent)}
.card.main dd{color:var(--accent);font-size:30px}
dl{margin:0}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:14px}
.chart,.panel{background:var(--surface);border:1px solid var(--rule);border-radius:12px;padding:14px 16px;min-width:0}
figcaption{display:flex;flex-wrap:wrap;justify-content:space-between;gap:4px 16px;margin-bottom:12px}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:2px 14px;font-size:13px;color:var(--soft)}
.legend b{color:var(--ink);font-weight:600}
.legend i{display:inline-block;width:14px;border-top:3px solid var(--tone);margin-right:6px;vertical-align:middle;border-radius:2px}
.legend i.dashed{border-top-style:dashed}
.plot{display:grid;grid-template-columns:46px 1fr;grid-template-rows:220px 34px;font-size:12px;color:var(--soft)}
.field{position:relative;border-left:1px solid var(--rule);border-bottom:1px solid var(--rule)}
.field svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
.ys{position:relative}.ys span{position:absolute;right:8px;transform:translateY(50%);white-space:nowrap;line-height:1}
.xs{position:relative;grid-column:2}.xs span{position:absolute;top:5px;transform:translateX(-50%);white-space:nowrap}
.xs b{position:absolute;right:0;top:19px;font-weight:400}
path{vector-effect:non-scaling-stroke;fill:none;stroke-linejoin:round;stroke-linecap:round}
.grid{stroke:var(--grid);stroke-width:1}.line{stroke:var(--tone);stroke-width:2}.faint{stroke-width:1;opacity:.35}
path.dashed{stroke-dasharray:6 5}.dots{stroke:var(--tone);stroke-width:6}
.mark{stroke:var(--soft);stroke-width:1;stroke-dasharray:3 4}.gap{stroke:var(--bad);stroke-width:2}
.strip rect{fill:transparent}.strip path{visibility:hidden}.strip>path:not(.dots){stroke:var(--soft);stroke-width:1}
.strip:hover path{visibility:visible}.strip .dots{stroke-width:8}
.sign{position:absolute;top:-9px;transform:translateX(-50%);background:var(--surface);border:1px solid var(--soft);
color:var(--ink);border-radius:99px;font-size:11px;line-height:15px;min-width:17px;text-align:center;padding:0 4px}
.note{color:var(--soft);font-size:13px;margin-top:6px}
.pairing{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr));gap:14px;align-items:start}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:13.5px}
caption{text-align:left;color:var(--soft);font-size:13px;padding-bottom:8px}
th{font-weight:500;text-align:left}
.pairs{width:100%}.pairs th,.pairs td{padding:4px 14px 4px 0;border-bottom:1px solid var(--rule);vertical-align:top}
.pairs th{color:var(--soft);white-space:nowrap;width:1%}.pairs td{overflow-wrap:anywhere;min-width:160px}
.data{width:100%}.data th,.data td{padding:6px 12px 6px 0;border-bottom:1px solid var(--rule);white-space:nowrap}
.data td{text-align:right}.data thead th{color:var(--soft);text-align:right;vertical-align:bottom}
.data thead th:first-child,.data td.text{text-align:left}.data .best{color:var(--good);font-weight:650}
.matrix{border-spacing:2px;border-collapse:separate;margin:0 auto}
.matrix td,.matrix th{text-align:center;font-size:12.5px;padding:0 4px;height:30px;min-width:32px}
.matrix td{border-radius:5px}.matrix th{color:var(--soft);max-width:130px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.matrix tbody th{text-align:right;padding-right:8px}.matrix td.zero{color:var(--soft);opacity:.75}
.heat{display:block;width:100%;max-width:520px;margin:0 auto;image-rendering:pixelated;border:1px solid var(--rule)}
.bars td.bar{width:100%;padding-right:0}.bars th,.bars td{padding:3px 10px 3px 0;white-space:nowrap}
.bars th{max-width:150px;overflow:hidden;text-overflow:ellipsis}.bars{width:100%}
.bar div{height:9px;border-radius:5px;background:var(--grid)}.bar i{display:block;height:100%;border-radius:5px;background:var(--accent)}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(126px,1fr));gap:12px}
.gallery figure{background:var(--surface);border:1px solid var(--rule);border-radius:12px;padding:10px;min-width:0;text-align:center}
.gallery img{width:100%;max-width:110px;aspect-ratio:1;object-fit:contain;image-rendering:pixelated;border-radius:6px;background:#000}
.gallery figcaption{display:block;margin:8px 0 0;font-size:13px;line-height:1.4;overflow-wrap:anywhere}
.gallery small{display:block;color:var(--soft);font-size:12px}
.gallery s{text-decoration:none;color:var(--bad);font-weight:650}.gallery b{color:var(--good)}
pre{margin:0;padding:13px 15px;border-radius:10px;background:var(--code);border:1px solid var(--rule);overflow-x:auto;
white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.55 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
details{background:var(--surface);border:1px solid var(--rule);border-radius:12px;padding:0 16px;margin-top:12px}
summary{cursor:pointer;padding:12px 0;font-weight:600}details[open]{padding-bottom:14px}
summary:focus-visible{outline:2px solid var(--accent);outline-offset:2px;border-radius:4px}
.panel details{border:0;padding:0;margin-top:8px}
.events{list-style:none;display:grid;gap:6px}.events li{overflow-wrap:anywhere}
.events b{display:inline-block;min-width:19px;text-align:center;border:1px solid var(--soft);border-radius:99px;font-size:12px;
font-weight:400;margin-right:8px;padding:0 5px}
footer{color:var(--soft);font-size:13px;margin-top:44px;border-top:1px solid var(--rule);padding-top:14px;overflow-wrap:anywhere}
@media (max-width:520px){main{padding:18px 14px 40px}h1{font-size:22px}.cards{grid-template-columns:1fr 1fr;gap:9px}
.card{padding:11px 12px}.card dd{font-size:19px}.card.main{grid-column:1/-1}.plot{grid-template-rows:180px 34px}
.matrix td,.matrix th{min-width:25px;height:26px;padding:0 2px;font-size:11.5px}.matrix{border-spacing:1px}
.chart,.panel{padding:12px}.gallery{grid-template-columns:repeat(auto-fill,minmax(104px,1fr))}}
@media print{body{background:#fff}main{max-width:none;padding:0}.chart,.panel,.card,.gallery figure{break-inside:avoid}
h2{break-after:avoid}.charts{grid-template-columns:1fr 1fr}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


def style_sheet() -> str:
    """The whole sheet."""
    light = f":root{{color-scheme:light dark;{_LIGHT}}}" + _tones(0) + _levels(0, _INK_LIGHT)
    dark = f":root{{{_DARK}}}" + _tones(1) + _levels(1, _INK_DARK)
    # Paper is white, whatever the screen was.
    return f"{light}{_RULES}@media screen and (prefers-color-scheme:dark){{{dark}}}"


def _tones(scheme: int) -> str:
    return "".join(f".t{number}{{--tone:{colours[scheme]}}}" for number, colours in enumerate(TONES))


def _levels(scheme: int, inks: tuple[str, ...]) -> str:
    return "".join(
        f".{kind}{level}{{background:{colours[scheme][level]};color:{inks[level]}}}"
        for kind, colours in (("r", _RIGHT), ("w", _WRONG))
        for level in range(5)
    )
