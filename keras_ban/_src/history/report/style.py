"""The style sheet of a report: for phones and wide screens, light and dark."""

STYLE = """
:root { color-scheme: light dark; --text: #1d1d1f; --soft: #5b5b60; --line: #d9d9de; --back: #fff; --box: #f4f5f7;
  --main: #1f4e79; --heat: 31, 78, 121; }
@media (prefers-color-scheme: dark) { :root { --text: #ececf0; --soft: #a8a8b0; --line: #3b3b42; --back: #17171a;
  --box: #222227; --main: #8ab8e6; --heat: 96, 152, 208; } figure > svg { filter: invert(.91) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 76rem;
  margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { font-size: 1.3rem; line-height: 1.3; margin: 3rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; } summary { cursor: pointer; font-weight: 600; padding: .5rem 0; }
p, li { max-width: 48rem; } .note, figcaption, .images .said, .tile span { color: var(--soft); font-size: .875rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 13rem), 1fr)); gap: .75rem; }
.tile { background: var(--box); border-radius: .5rem; padding: .75rem 1rem; display: grid; }
.tile b { font-size: 1.6rem; line-height: 1.3; } .tile.chosen b { color: var(--main); }
/* The shadow at an edge says that there is more behind it. */
.wide { overflow-x: auto; background: linear-gradient(90deg, var(--back) 30%, transparent) 0 0 / 2.5rem 100%,
  linear-gradient(270deg, var(--back) 30%, transparent) 100% 0 / 2.5rem 100%,
  linear-gradient(90deg, #8886, transparent) 0 0 / .8rem 100%,
  linear-gradient(270deg, #8886, transparent) 100% 0 / .8rem 100%;
  background-attachment: local, local, scroll, scroll; background-repeat: no-repeat; }
.hint { display: none; color: var(--soft); font-size: .875rem; margin: .25rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; margin: .5rem 0;
  overflow-wrap: normal; }
th, td { padding: .3rem .45rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { vertical-align: bottom; color: var(--soft); font-weight: 600; } tbody th { font-weight: 400; }
tbody + tbody tr:first-child > * { border-top: 2px solid var(--line); }
table.text td, table.text th, th:first-child, td:first-child { text-align: left; }
table.text td.number, table.text th.number { text-align: right; }
table.text td.number { white-space: nowrap; } table.text th.number { min-width: 5rem; max-width: 9rem; }
.name { min-width: 7rem; max-width: 18rem; overflow-wrap: anywhere; } td.name { min-width: 11rem; }
.matrix td { white-space: nowrap; min-width: 2.1rem; text-align: center; padding: .3rem .2rem;
  border: 1px solid var(--line); }
.matrix thead th { vertical-align: bottom; text-align: center; border: 0; padding: .4rem .1rem; }
.matrix thead th span { display: inline-block; writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  max-height: 10rem; line-height: 1.15; overflow-wrap: anywhere; }
.matrix tbody th { min-width: 5.5rem; max-width: 14rem; overflow-wrap: anywhere; } .matrix td.strong { color: #fff; }
.matrix td.right { outline: 2px solid var(--main); outline-offset: -2px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.5rem;
  margin-top: 1rem; } .figures figure { max-width: 37rem; }
figure { margin: 0; min-width: 0; } figure > svg { width: 100%; height: auto; display: block; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: 1.25rem 1rem; }
.images img { width: 96px; height: 96px; object-fit: contain; image-rendering: pixelated; display: block; }
.images figcaption { margin-top: .3rem; }
.images figcaption b { color: var(--text); }
pre { overflow-x: auto; background: var(--box); padding: .8rem; font-size: .85rem; border-radius: .5rem; }
code { font-family: ui-monospace, monospace; }
@media (max-width: 40rem) { .hint { display: block; } pre { white-space: pre-wrap; }
  .matrix { font-size: .8rem; } .matrix td, .matrix thead th + th { min-width: 1.45rem; padding: .3rem 0; }
  .wide > table th:first-child { position: sticky; left: 0; background: var(--back);
    min-width: 6.5rem; max-width: 9rem; white-space: normal !important; }
  .wide > .matrix th:first-child { min-width: 6rem; max-width: 6rem; padding: .3rem .2rem .3rem 0; } }
"""
