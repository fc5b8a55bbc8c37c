(function () {
  var data = JSON.parse(document.getElementById("data").textContent);
  var root = document.documentElement, media = window.matchMedia("(prefers-color-scheme: dark)");
  var coarse = window.matchMedia("(pointer: coarse)").matches;
  var printing = false;
  function theme() {
    if (printing) return "light";
    return root.dataset.theme || (media.matches ? "dark" : "light");
  }
  function css(name) { return getComputedStyle(root).getPropertyValue(name).trim(); }

  /* ---- colours: "$c0@0.2" is the first potential's colour, one fifth opaque, in the theme of the moment */
  function colour(token) {
    var parts = token.slice(1).split("@"), hex = parts[0] === "paper" ? (printing ? "#ffffff" : css("--paper")) : data.looks[theme()][parts[0]];
    if (parts.length === 1) return hex;
    var n = parseInt(hex.slice(1), 16);
    return "rgba(" + (n >> 16) + "," + ((n >> 8) & 255) + "," + (n & 255) + "," + parts[1] + ")";
  }
  function painted(value) {
    if (typeof value === "string") return value[0] === "$" ? colour(value) : value;
    if (Array.isArray(value)) return value.length > 12 ? value : value.map(painted);
    if (value && typeof value === "object") {
      var out = {};
      Object.keys(value).forEach(function (key) {
        out[key] = key === "x" || key === "y" || key === "z" || key === "text" ? value[key] : painted(value[key]);
      });
      return out;
    }
    return value;
  }

  /* ---- plots */
  function ticksOfLog(low, high, place) {
    var span = high - low, values = [], words = [];
    var steps = span < 0.7 ? [1, 1.5, 2, 3, 4, 5, 7] : span < (place === "x" ? 1.5 : 1.8) ? [1, 2, 5] : span < 2.6 ? [1, 3] : [1];
    var stride = Math.max(1, Math.ceil(span / 6));
    for (var k = Math.floor(low); k <= Math.ceil(high); k++) steps.forEach(function (step) {
      var at = k + Math.log10(step);
      if (at < low || at > high || (((k % stride) + stride) % stride)) return;
      values.push(step * Math.pow(10, k));
      words.push(k < -3 || k > 4 ? (step === 1 ? "" : step + "·") + "10<sup>" + String(k).replace("-", "−") + "</sup>" : String(Number((step * Math.pow(10, k)).toPrecision(3))));
    });
    return { tickvals: values, ticktext: words };
  }
  function axis(spec, place) {
    var ink = colour("$muted"), grid = colour("$grid");
    var log = spec.type === "log";
    var out = {
      title: { text: spec.title, font: { size: 12, color: ink }, standoff: 6 }, type: spec.type,
      gridcolor: grid, linecolor: grid, zeroline: false, ticks: "", tickfont: { size: 11, color: ink },
      automargin: true, exponentformat: "power", showexponent: "all", nticks: place === "x" ? 6 : 7
    };
    if (log && spec.range) Object.assign(out, ticksOfLog(spec.range[0], spec.range[1], place));
    if (spec.range) out.range = spec.range.slice();
    if (spec.tickvals) { out.tickvals = spec.tickvals; out.ticktext = spec.ticktext; out.showgrid = false; }
    return out;
  }
  function layout(spec, box) {
    var muted = colour("$muted");
    var shapes = spec.rules.map(function (rule) {
      var across = rule.axis === "y";
      return {
        type: "line", layer: "below", line: { color: muted, width: 1.2, dash: "dash" },
        xref: across ? "paper" : "x", yref: across ? "y" : "paper",
        x0: across ? 0 : rule.value, x1: across ? 1 : rule.value, y0: across ? rule.value : 0, y1: across ? rule.value : 1
      };
    });
    var notes = spec.rules.map(function (rule) {
      var across = rule.axis === "y", on = across ? spec.y : spec.x;
      var value = on.type === "log" ? Math.log10(rule.value) : rule.value;
      return {
        text: rule.label, showarrow: false, font: { size: 11, color: muted }, xref: across ? "paper" : "x",
        yref: across ? "y" : "paper", x: across ? 1 : value, y: across ? value : rule.low ? 0 : 1,
        xanchor: "right", yanchor: across || rule.low ? "bottom" : "top", textangle: across ? 0 : -90
      };
    });
    (spec.words || []).forEach(function (word) {
      notes.push({ text: word.text, showarrow: false, font: { size: 12, color: muted }, xref: "x", yref: "y", x: word.x, y: word.y });
    });
    return {
      width: box.width, height: box.height, margin: { l: 52, r: 10, t: 8, b: 44 }, showlegend: false,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, color: colour("$ink"), size: 12 },
      xaxis: Object.assign(axis(spec.x, "x"), spec.bare ? { visible: false } : {}),
      yaxis: Object.assign(axis(spec.y, "y"), spec.bare ? { visible: false, scaleanchor: "x" } : {}), shapes: shapes, annotations: notes,
      dragmode: coarse ? false : "zoom", hovermode: "closest",
      hoverlabel: { bgcolor: css("--ink"), bordercolor: css("--ink"), font: { color: css("--paper"), size: 12 } }
    };
  }
  var config = { displaylogo: false, responsive: false, displayModeBar: false, scrollZoom: false };
  var plots = [];
  document.querySelectorAll("figure .plot").forEach(function (div) {
    var figure = div.closest("figure");
    plots.push({ div: div, figure: figure, spec: data.figures[figure.id][Number(div.dataset.panel)], hidden: {}, drawn: false });
  });
  function draw(plot) {
    var panel = plot.div.closest(".panel");
    var own = plot.spec.traces.map(function (t) { return t.run; }).filter(function (r) { return r !== null && r !== undefined; });
    var gone = own.length > 0 && own.every(function (r) { return plot.hidden[r]; });
    panel.hidden = gone && plot.spec.traces.some(function (t) { return t.type === "heatmap"; });
    if (panel.hidden) return;
    var traces = plot.spec.traces.map(function (trace) {
      var out = painted(trace);
      if (out.hovertemplate === null) delete out.hovertemplate;
      out.visible = !plot.hidden[trace.run];
      out.showlegend = false;
      delete out.run;
      return out;
    });
    var box = plot.div.getBoundingClientRect();
    if (box.width < 10) return;
    plot.drawn = true;
    return Plotly.react(plot.div, traces, layout(plot.spec.layout, box), config);
  }
  function drawAll() { plots.forEach(draw); }
  function drawInTurn(index) {
    if (index >= plots.length) { root.dataset.ready = "yes"; return; }
    if (!plots[index].drawn) draw(plots[index]);
    setTimeout(function () { drawInTurn(index + 1); }, 0);
  }
  document.querySelectorAll(".legend button").forEach(function (button) {
    button.addEventListener("click", function () {
      var on = button.getAttribute("aria-pressed") !== "true", figure = button.closest("figure");
      button.setAttribute("aria-pressed", String(on));
      plots.filter(function (p) { return p.figure === figure; }).forEach(function (p) {
        p.hidden[Number(button.dataset.run)] = !on; draw(p);
      });
    });
  });

  /* ---- tables: a click on a heading sorts, empty values last */
  document.querySelectorAll("table.data:not(.plain)").forEach(function (table) {
    var body = table.tBodies[0], heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach(function (head, column) {
      head.firstElementChild.addEventListener("click", function () {
        var up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach(function (h) { h.setAttribute("aria-sort", "none"); });
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        var words = head.classList.contains("words");
        Array.from(body.rows).map(function (row) { return { row: row, key: row.cells[column].dataset.key }; })
          .sort(function (a, b) {
            if (a.key === "" || b.key === "") return (a.key === "") - (b.key === "");
            var order = words ? a.key.localeCompare(b.key, undefined, { numeric: true }) : Number(a.key) - Number(b.key);
            return up ? order : -order;
          }).forEach(function (entry) { body.appendChild(entry.row); });
      });
    });
  });

  /* ---- the structure in 3D */
  var panes = document.getElementById("panes"), views = [], view = Molecule.start();
  function chosen(name) {
    return Array.from(document.querySelectorAll("input[name=" + name + "]:checked")).map(function (i) { return i.value; });
  }
  function ramp(share) {
    var stops = data.viewer.scale, x = Math.max(0, Math.min(1, share)) * (stops.length - 1), i = Math.min(Math.floor(x), stops.length - 2);
    var a = parseInt(stops[i].slice(1), 16), b = parseInt(stops[i + 1].slice(1), 16), f = x - i, out = [16, 8, 0].map(function (s) {
      return Math.round((1 - f) * ((a >> s) & 255) + f * ((b >> s) & 255));
    });
    return "rgb(" + out.join(",") + ")";
  }
  function number(x) { return x === null || x === undefined ? "no value" : Number(x.toPrecision(3)).toString(); }
  function structures() {
    if (!panes) return;
    var split = data.viewer.splits[Number(chosen("split")[0])], quantity = chosen("quantity")[0], runs = chosen("run");
    var inks = { bond: theme() === "dark" ? "#5a6270" : "#9aa0a9", edge: theme() === "dark" ? "rgba(0,0,0,.55)" : "rgba(20,20,30,.45)" };
    var range = split.range, element = quantity === "element";
    var label = (data.viewer.quantities.find(function (q) { return q.name === quantity; }) || { label: "element" }).label;
    document.getElementById("viewer-note").textContent = split.note;
    if (element) runs = runs.slice(0, 1);
    panes.textContent = ""; views = [];
    runs.forEach(function (index) {
      var run = data.viewer.runs.find(function (r) { return String(r.index) === index; });
      var values = element ? null : (split.values[quantity] || {})[index];
      var pane = document.createElement("div"), head = document.createElement("h4");
      pane.className = "pane";
      head.textContent = element ? split.split : run.label + ": " + (values ? label : label + " not recorded");
      pane.appendChild(head); panes.appendChild(pane);
      if (!values && !element) return;
      var canvas = document.createElement("canvas");
      canvas.tabIndex = 0; canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", "Structure of split " + split.split + " coloured by " + label + (element ? "" : " of " + run.label));
      pane.appendChild(canvas);
      var colours = split.symbols.map(function (_, i) {
        if (element) return split.colours[i];
        return values[i] === null ? "#888888" : ramp((values[i] - range[0]) / ((range[1] - range[0]) || 1));
      });
      var molecule = new Molecule(canvas, function () { views.forEach(function (v) { v.draw(); }); });
      molecule.listen(document.getElementById("tip"), function (atom) {
        return split.symbols[atom] + atom + (element ? "" : ": " + number(values[atom]) + " " + data.viewer.unit);
      });
      molecule.show(split, colours, view, inks);
      views.push(molecule);
    });
    views.forEach(function (v) { v.draw(); });
    var bar = document.getElementById("colourbar");
    bar.textContent = "";
    if (!element) {
      var strip = document.createElement("i");
      strip.style.background = "linear-gradient(90deg," + data.viewer.scale.join(",") + ")";
      bar.append(number(range[0]), strip, number(range[1]) + " " + data.viewer.unit + ", " + label);
    }
  }
  document.querySelectorAll(".controls input").forEach(function (input) { input.addEventListener("change", structures); });

  /* ---- trajectories that failed, played */
  var film = { canvas: document.getElementById("film"), at: 0, timer: 0, view: Molecule.start(), shown: null };
  function filmFrame() {
    if (!film.canvas) return;
    var f = film.shown, bond = theme() === "dark" ? "#5a6270" : "#9aa0a9", edge = theme() === "dark" ? "rgba(0,0,0,.55)" : "rgba(20,20,30,.45)";
    f.positions = f.frames[film.at];
    film.molecule.show(f, f.colours.map(function (c, i) { return f.atoms.indexOf(i) < 0 ? c : "#c026d3"; }), film.view, { bond: bond, edge: edge });
    film.molecule.draw();
    var last = f.steps[f.steps.length - 1], step = f.steps[film.at];
    document.getElementById("film-place").value = film.at;
    document.getElementById("film-time").textContent = number(step * f.timestep / 1000) + " ps, " + number((last - step) * f.timestep) + " fs before the end";
  }
  function filmPlay(on) {
    var button = document.getElementById("film-play");
    clearInterval(film.timer);
    button.textContent = on ? "Pause" : "Play"; button.setAttribute("aria-pressed", String(on));
    if (on) film.timer = setInterval(function () { film.at = (film.at + 1) % film.shown.frames.length; filmFrame(); }, 180);
  }
  function filmShow() {
    if (!film.canvas) return;
    film.shown = data.films.films[Number(chosen("film")[0])];
    film.at = film.shown.frames.length - 1;
    document.getElementById("film-place").max = film.at;
    document.getElementById("film-note").textContent = film.shown.label + ": " + film.shown.note + ".";
    filmFrame();
  }
  if (film.canvas) {
    film.molecule = new Molecule(film.canvas, filmFrame);
    film.molecule.listen(document.getElementById("tip"), function (atom) { return film.shown.symbols[atom] + atom; });
    document.getElementById("film-play").addEventListener("click", function () { filmPlay(this.getAttribute("aria-pressed") !== "true"); });
    document.getElementById("film-place").addEventListener("input", function () { filmPlay(false); film.at = Number(this.value); filmFrame(); });
    document.querySelectorAll("input[name=film]").forEach(function (input) {
      input.addEventListener("change", function () { filmPlay(false); filmShow(); });
    });
  }

  /* ---- theme, size, print, place in the page */
  function repaint() { drawAll(); structures(); if (film.canvas) filmFrame(); }
  document.getElementById("theme").addEventListener("click", function () {
    root.dataset.theme = theme() === "dark" ? "light" : "dark";
    try { localStorage.setItem("fireassay-theme", root.dataset.theme); } catch (error) { /* a page from disk may have no storage */ }
    repaint();
  });
  media.addEventListener("change", repaint);
  var width = window.innerWidth, timer = 0;
  window.addEventListener("resize", function () {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    clearTimeout(timer); timer = setTimeout(repaint, 120);
  });
  window.addEventListener("beforeprint", function () { printing = true; repaint(); });
  window.addEventListener("afterprint", function () { printing = false; repaint(); });
  function openTarget() {
    var target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    target.querySelectorAll("details.fold").forEach(function (d) { d.open = true; });
    for (var up = target.closest("details"); up; up = up.parentElement.closest("details")) up.open = true;
  }
  window.addEventListener("hashchange", openTarget);
  var links = new Map(Array.from(document.querySelectorAll("nav a")).map(function (a) { return [a.hash.slice(1), a]; }));
  if ("IntersectionObserver" in window) {
    var watcher = new IntersectionObserver(function (entries) {
      entries.forEach(function (entry) {
        if (!entry.isIntersecting) return;
        links.forEach(function (a) { a.removeAttribute("aria-current"); });
        var link = links.get(entry.target.id);
        if (link) link.setAttribute("aria-current", "true");
      });
    }, { rootMargin: "-20% 0px -75% 0px" });
    document.querySelectorAll("main > section").forEach(function (section) { watcher.observe(section); });
  }
  structures();
  filmShow();
  openTarget();
  drawInTurn(0);
})();
