"use strict";
/* A small viewer: spheres and sticks on a 2D canvas, painted from back to front, so that it needs no WebGL. */
function Molecule(canvas, onTurn) {
  this.canvas = canvas;
  this.context = canvas.getContext("2d");
  this.onTurn = onTurn;
  this.drawn = [];
}
Molecule.prototype.show = function (structure, colours, view, inks) {
  this.structure = structure; this.colours = colours; this.view = view; this.inks = inks;
};
Molecule.prototype.draw = function () {
  var box = this.canvas.getBoundingClientRect();
  if (!this.structure || box.width < 2) return;
  var ratio = Math.min(window.devicePixelRatio || 1, 2), width = box.width, height = box.height;
  this.canvas.width = Math.round(width * ratio); this.canvas.height = Math.round(height * ratio);
  var pen = this.context;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  var points = this.structure.positions, m = this.view.matrix, reach = 1, i;
  for (i = 0; i < points.length; i++) reach = Math.max(reach, Math.hypot(points[i][0], points[i][1], points[i][2]));
  var wide = 1, high = 1;
  for (i = 0; i < points.length; i++) { wide = Math.max(wide, Math.abs(points[i][0])); high = Math.max(high, Math.abs(points[i][1])); }
  if (this.structure.size) { wide = this.structure.size[0]; high = this.structure.size[1]; reach = Math.max(wide, high); }
  var fit = Math.min(width / 2 / (Math.max(wide, 0.86 * reach) + 1), height / 2 / (Math.max(high, 0.6 * reach) + 1));
  var scale = fit * this.view.zoom;
  var place = points.map(function (p) {
    return {
      x: width / 2 + scale * (m[0] * p[0] + m[1] * p[1] + m[2] * p[2]),
      y: height / 2 - scale * (m[3] * p[0] + m[4] * p[1] + m[5] * p[2]),
      z: m[6] * p[0] + m[7] * p[1] + m[8] * p[2]
    };
  });
  var radii = this.structure.radii, items = [], self = this;
  for (i = 0; i < place.length; i++) items.push({ z: place[i].z, atom: i });
  this.structure.bonds.forEach(function (pair) {
    items.push({ z: (place[pair[0]].z + place[pair[1]].z) / 2 - 0.05, bond: pair });
  });
  items.sort(function (a, b) { return a.z - b.z; });
  this.drawn = [];
  items.forEach(function (item) {
    var depth = Math.max(0, Math.min(1, (item.z + reach) / (2 * reach)));
    if (item.bond) {
      var a = place[item.bond[0]], b = place[item.bond[1]];
      pen.globalAlpha = 0.45 + 0.55 * depth;
      pen.strokeStyle = self.inks.bond; pen.lineWidth = Math.max(1.5, 0.16 * scale); pen.lineCap = "round";
      pen.beginPath(); pen.moveTo(a.x, a.y); pen.lineTo(b.x, b.y); pen.stroke();
      pen.globalAlpha = 1;
    } else {
      var p = place[item.atom], r = Math.max(2.5, 0.48 * radii[item.atom] * scale * (0.92 + 0.16 * depth));
      pen.fillStyle = self.colours[item.atom];
      pen.strokeStyle = self.inks.edge; pen.lineWidth = 1.1;
      pen.beginPath(); pen.arc(p.x, p.y, r, 0, 2 * Math.PI); pen.fill();
      var gloss = pen.createRadialGradient(p.x - 0.35 * r, p.y - 0.4 * r, 0.08 * r, p.x, p.y, r);
      gloss.addColorStop(0, "rgba(255,255,255,0.42)"); gloss.addColorStop(0.45, "rgba(255,255,255,0)");
      gloss.addColorStop(1, "rgba(0,0,0,0.22)");
      pen.fillStyle = gloss; pen.fill(); pen.stroke();
      self.drawn.push({ x: p.x, y: p.y, r: r, atom: item.atom });
    }
  });
};
Molecule.prototype.at = function (x, y) {
  for (var i = this.drawn.length - 1; i >= 0; i--) {
    var d = this.drawn[i];
    if (Math.hypot(x - d.x, y - d.y) <= d.r) return d.atom;
  }
  return -1;
};
Molecule.start = function () { return { matrix: Molecule.turned([1, 0, 0, 0, 1, 0, 0, 0, 1], 0.35, 0.45), zoom: 1 }; };
Molecule.turned = function (m, about_y, about_x) {
  var c = Math.cos(about_y), s = Math.sin(about_y), k = Math.cos(about_x), t = Math.sin(about_x);
  var r = [c, 0, s, t * s, k, -t * c, -k * s, t, k * c], out = [];
  for (var i = 0; i < 3; i++) for (var j = 0; j < 3; j++) {
    out.push(r[3 * i] * m[j] + r[3 * i + 1] * m[3 + j] + r[3 * i + 2] * m[6 + j]);
  }
  return out;
};
Molecule.prototype.listen = function (tip, words) {
  var self = this, canvas = this.canvas, pointers = new Map(), apart = 0;
  function turn(x, y) { self.view.matrix = Molecule.turned(self.view.matrix, x, y); self.onTurn(); }
  function zoom(factor) { self.view.zoom = Math.max(0.4, Math.min(8, self.view.zoom * factor)); self.onTurn(); }
  function reset() { Object.assign(self.view, Molecule.start()); self.onTurn(); }
  function spread() { var p = Array.from(pointers.values()); return Math.hypot(p[0].x - p[1].x, p[0].y - p[1].y); }
  canvas.addEventListener("pointerdown", function (e) {
    canvas.setPointerCapture(e.pointerId); pointers.set(e.pointerId, { x: e.clientX, y: e.clientY });
    if (pointers.size === 2) apart = spread();
  });
  canvas.addEventListener("pointermove", function (e) {
    var last = pointers.get(e.pointerId);
    if (!last) {
      var box = canvas.getBoundingClientRect(), atom = self.at(e.clientX - box.left, e.clientY - box.top);
      tip.hidden = atom < 0;
      if (atom >= 0) {
        tip.textContent = words(atom);
        tip.style.left = Math.min(e.clientX + 12, window.innerWidth - tip.offsetWidth - 8) + "px";
        tip.style.top = e.clientY + 14 + "px";
      }
      return;
    }
    var dx = e.clientX - last.x, dy = e.clientY - last.y;
    pointers.set(e.pointerId, { x: e.clientX, y: e.clientY });
    if (pointers.size === 2) { var now = spread(); zoom(now / (apart || now)); apart = now; }
    else turn(0.011 * dx, 0.011 * dy);
  });
  ["pointerup", "pointercancel"].forEach(function (name) {
    canvas.addEventListener(name, function (e) { pointers.delete(e.pointerId); });
  });
  canvas.addEventListener("pointerleave", function () { tip.hidden = true; });
  canvas.addEventListener("dblclick", reset);
  canvas.addEventListener("wheel", function (e) {
    if (!e.ctrlKey) return;
    e.preventDefault(); zoom(Math.exp(-0.004 * e.deltaY));
  }, { passive: false });
  canvas.addEventListener("keydown", function (e) {
    var keys = { ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, -0.12], ArrowDown: [0, 0.12] };
    if (keys[e.key]) turn(keys[e.key][0], keys[e.key][1]);
    else if (e.key === "+" || e.key === "=") zoom(1.15);
    else if (e.key === "-") zoom(1 / 1.15);
    else if (e.key === "0") reset();
    else return;
    e.preventDefault();
  });
};
