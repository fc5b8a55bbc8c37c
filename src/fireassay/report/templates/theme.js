(function () {
  "use strict";
  var stored = null;
  try { stored = localStorage.getItem("fireassay-theme"); } catch (error) { stored = null; }
  if (stored === "light" || stored === "dark") document.documentElement.dataset.theme = stored;
})();
