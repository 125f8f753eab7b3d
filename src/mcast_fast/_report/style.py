"""The style sheets of a page and of a picture by itself: light, dark and paper.

Rules of this module: data only. The colours of streams are those of Okabe and Ito, which all eyes tell apart
(https://jfly.uni-koeln.de/color/), lighter on a dark ground; from the fourth on lines are dashed too.
"""

_LIGHT = """
--ground:#f6f7f8;--card:#fff;--ink:#16191d;--soft:#59636e;--rule:#dfe3e7;--good:#00734f;--bad:#b3260d;--warn:#8a5a00;
--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b8518d;--c4:#b98000;--c5:#3a9bd9;--c9:#8b949e;
"""
_DARK = """
--ground:#101316;--card:#191d21;--ink:#e9ecef;--soft:#a0aab4;--rule:#2c333a;--good:#4fd1a5;--bad:#ff8a70;--warn:#f0c04d;
--c0:#56b4e9;--c1:#ff9440;--c2:#35c99b;--c3:#e79ccb;--c4:#f0e442;--c5:#a9c6ff;--c9:#7d8791;
"""

CHARTS = f"""
:root{{color-scheme:light dark;{_LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
@media print{{:root{{color-scheme:light;{_LIGHT}--ground:#fff;}}}}
.chart text{{font:12px system-ui,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;fill:var(--ink)}}
.chart .tick{{fill:var(--soft);font-variant-numeric:tabular-nums}}
.chart .end{{text-anchor:end}}.chart .middle{{text-anchor:middle}}.chart .start{{text-anchor:start}}
.chart .lane{{font-size:13px}}.chart .lane.end{{fill:var(--soft);font-variant-numeric:tabular-nums}}
.chart .heading{{font-size:16px;font-weight:600}}
.grid{{stroke:var(--rule);stroke-width:1}}.axis{{stroke:var(--soft);stroke-width:1}}
.line{{fill:none;stroke-width:1.25;stroke-linejoin:round}}
.area{{opacity:.16;stroke:none}}
.columns rect{{fill:transparent}}.columns rect:hover{{fill:var(--ink);fill-opacity:.07}}
.line.c3,.line.c4,.line.c5{{stroke-dasharray:6 2}}
""" + "".join(
    f".line.{one}{{stroke:var(--{one})}}.area.{one},.bar.{one}{{fill:var(--{one})}}"
    for one in ("c0", "c1", "c2", "c3", "c4", "c5", "c9", "bad")
)

PAGE = (
    CHARTS
    + """
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);line-height:1.5;
font-family:system-ui,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1200px;margin:0 auto;padding:32px 24px 48px}
h1{font-size:clamp(1.3rem,1rem + 1.4vw,1.8rem);line-height:1.25;font-weight:650;letter-spacing:-.01em;margin:4px 0 10px;
text-wrap:balance;overflow-wrap:anywhere}
h2{font-size:1.06rem;font-weight:650;margin:0 0 2px}
h3{font-size:.92rem;font-weight:600;margin:0 0 4px;overflow-wrap:anywhere}
p{margin:0 0 12px}section>p:last-child{margin:0}
.kind{font-size:.8rem;font-weight:600;letter-spacing:.06em;text-transform:uppercase;color:var(--soft);margin:0}
.kind.good{color:var(--good)}.kind.bad{color:var(--bad)}
.soft,.unit{color:var(--soft)}.soft{font-size:.9rem;overflow-wrap:anywhere}.unit{font-weight:400;font-size:.85rem}
section,dl.tiles{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:18px 20px;
margin-top:18px}
dl.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(128px,1fr));gap:1px;padding:0;overflow:hidden;
background:var(--rule)}
.tiles div{background:var(--card);padding:12px 16px}
.tiles dt{font-size:.8rem;color:var(--soft)}
.tiles dd{margin:0;font-size:1.25rem;font-weight:600;font-variant-numeric:tabular-nums;white-space:nowrap}
.tiles .bad dd{color:var(--bad)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:2px 18px;margin:6px 0 4px;padding:0;font-size:.86rem}
.legend li{display:flex;align-items:center;gap:7px;overflow-wrap:anywhere}
.swatch{flex:none;display:inline-block;width:14px;height:3px;border-radius:2px;vertical-align:middle}
"""
    + "".join(f".swatch.{one}{{background:var(--{one})}}" for one in ("c0", "c1", "c2", "c3", "c4", "c5", "c9"))
    + """
.chart{display:block;width:100%;height:auto}
.narrow{display:none}
.several{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));gap:14px 22px;margin-top:10px}
.scroll{overflow-x:auto;margin:8px -20px 0;padding:0 20px}
table{border-collapse:collapse;width:100%;font-size:.84rem;font-variant-numeric:tabular-nums}
th{font-weight:600;color:var(--soft);text-align:left;vertical-align:bottom}
th,td{padding:6px 11px 6px 0;border-bottom:1px solid var(--rule);white-space:nowrap}
th:last-child,td:last-child{padding-right:0}
tbody tr:last-child td{border-bottom:0}
.number{text-align:right}
td em{color:var(--bad);font-style:normal;font-weight:600}
.findings{list-style:none;margin:8px 0 0;padding:0}
.findings>li{padding:10px 0;border-top:1px solid var(--rule)}
.findings>li:first-child{border-top:0}
.verdict{font-size:.78rem;font-weight:650;text-transform:uppercase;letter-spacing:.05em;margin-right:8px}
.problem .verdict{color:var(--bad)}.warning .verdict{color:var(--warn)}.ok .verdict{color:var(--good)}
.unknown .verdict{color:var(--soft)}
code{font:.86em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
pre{margin:6px 0 0;padding:8px 10px;background:var(--ground);border-radius:6px;white-space:pre-wrap}
ul.plain{margin:4px 0 0;padding-left:18px;font-size:.86rem;color:var(--soft)}
footer{margin-top:22px;font-size:.82rem;color:var(--soft)}
@media (max-width:640px){main{padding:20px 12px 32px}section{padding:14px}.wide{display:none}.narrow{display:block}
.scroll{margin:8px -14px 0;padding:0 14px}dl.tiles{grid-template-columns:1fr 1fr;padding:0}
.tiles div:last-child:nth-child(odd){grid-column:1/-1}
.tiles dd{font-size:1.1rem}.tiles div{padding:10px 14px}}
@media print{@page{size:A4;margin:14mm}main{max-width:none;padding:0}body{font-size:10pt}.wide{display:block}
.narrow{display:none}section,dl.tiles{break-inside:avoid;border-radius:0}
section{padding:12px 14px}
section.long{break-inside:auto}
dl.tiles{padding:0;grid-template-columns:repeat(7,auto)}.tiles div{padding:8px 10px}
tr,li{break-inside:avoid}table{font-size:7.5pt}
th,td{padding:3px 8px 3px 0}.scroll{overflow:visible;margin:8px 0 0;padding:0}
.tiles dd{font-size:1rem}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
)
