"""The looks of every page: one column beside a table of contents, light or dark as the reader's system is."""

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1d2430; --soft: #5b6573; --line: #dfe3e8;
  --panel: #f5f7f9; --link: #0a5ea8; --best: #e2f3e9; --better: #11703c; --worse: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --page: #14181d; --ink: #e4e8ee; --soft: #a0abb8;
  --line: #333b45; --panel: #1c2229; --link: #7cb8f2; --best: #1d3d2b;
  --better: #6fd39a; --worse: #ff9c92; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; }
.page { display: grid; grid-template-columns: 200px minmax(0, 1000px); gap: 40px; justify-content: center;
  padding: 40px 24px 64px; }
nav { position: sticky; top: 24px; align-self: start; max-height: calc(100vh - 48px); overflow-y: auto;
  font-size: 14px; line-height: 1.35; }
nav p { margin: 0 0 8px; color: var(--soft); }
nav ul { list-style: none; margin: 0; padding: 0; }
nav li { margin: 0 0 6px; overflow-wrap: anywhere; }
nav li.sub { padding-left: 12px; margin-bottom: 4px; }
nav li.sub a { color: var(--soft); }
nav a { color: var(--link); text-decoration: none; }
nav a:hover { text-decoration: underline; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 22px; line-height: 1.3; margin: 48px 0 12px; padding-top: 20px; overflow-wrap: anywhere;
  border-top: 1px solid var(--line); }
h3 { font-size: 17px; line-height: 1.3; margin: 32px 0 8px; }
main p, main ul { max-width: 76ch; margin: 0 0 12px; }
main ul { padding-left: 22px; }
main li { margin-bottom: 8px; }
.subtitle { color: var(--soft); font-size: 17px; margin-bottom: 20px; }
.guide { color: var(--soft); font-size: 15px; border-left: 3px solid var(--line); padding-left: 12px; }
.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 20px; margin: 0 0 20px;
  font-size: 15px; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.cards { display: flex; flex-wrap: wrap; gap: 8px; margin: 8px 0 20px; }
.cards div { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; min-width: 76px;
  padding: 6px 12px; }
.cards b { display: block; font-size: 21px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.cards span { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; margin: 4px 0 20px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
.caption { color: var(--soft); font-size: 14px; margin: 0 0 6px; }
th, td { padding: 6px 8px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
thead th { border-bottom: 2px solid var(--soft); font-weight: 600; max-width: 130px; white-space: normal; }
thead th { overflow-wrap: anywhere; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 4px; }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 110px; }
td.words, th.words { text-align: left; }
td.words { white-space: normal; overflow-wrap: anywhere; min-width: 90px; }
td.words:last-child { min-width: 190px; }
td.best { background: var(--best); font-weight: 700; }
td.better { color: var(--better); }
td.worse { color: var(--worse); }
td.absent { color: var(--soft); }
td small { display: block; color: var(--soft); font-size: 12px; font-weight: 400; }
.columns { display: flex; flex-wrap: wrap; gap: 0 36px; }
details { margin: 0 0 16px; }
summary { cursor: pointer; color: var(--link); padding: 4px 0; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px;
  overflow-x: auto; font-size: 13px; line-height: 1.4; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 8px; }
td .swatch { position: absolute; left: 4px; top: calc(50% - 5px); }
td:has(> .swatch) { position: relative; padding-left: 23px; }
figure { margin: 0 0 20px; }
figure img { display: block; max-width: 100%; height: auto; background: #ffffff; border-radius: 4px; }
figcaption { color: var(--soft); font-size: 14px; line-height: 1.4; padding-top: 5px;
  overflow-wrap: anywhere; }
.grid { display: grid; gap: 16px 14px; margin: 8px 0 20px; }
.grid figure { margin: 0; min-width: 0; }
.grid img { width: 100%; border: 1px solid var(--line); }
@media (max-width: 900px) {
  .page { display: block; padding: 24px 16px 48px; }
  nav { position: static; max-height: none; border: 1px solid var(--line); border-radius: 8px;
    padding: 10px 14px; margin-bottom: 24px; }
  nav li.sub { display: none; }
  .grid { gap: 12px 8px; }
  .grid figcaption { font-size: 12px; }
}
@media print { nav { display: none; } .page { display: block; } }
"""
