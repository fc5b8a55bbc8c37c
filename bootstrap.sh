#!/usr/bin/env bash
# Set up fireassay in .venv and run one thing:
#   bash bootstrap.sh demo [options]   the main job on the embedded data set
#   bash bootstrap.sh test             lint, types, tests, examples, docs
# FIREASSAY_VENV names another environment folder, FIREASSAY_TORCH another torch requirement (a CUDA build, say).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
what=${1:-}
case "$what" in
  demo | test) shift ;;
  *)
    sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
    ;;
esac

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "fireassay needs Python 3.11 or newer; found $("$python" --version 2>&1 || echo none). Set PYTHON to one." >&2
  exit 2
fi
venv=${FIREASSAY_VENV:-$here/.venv}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

"$venv/bin/python" -c 'import torch' 2>/dev/null || pip install ${FIREASSAY_TORCH:-torch==2.13.0}
if [ "$what" = demo ]; then
  pip install "$here"
  exec "$venv/bin/fireassay" demo "$@"
fi

pip install --editable "$here[dev]"
cd "$here"
PATH="$venv/bin:$PATH"
ruff check .
ruff format --check .
pyright --pythonpath "$venv/bin/python"
python -m pytest "$@"
for example in examples/*.py; do
  echo "$example"
  (cd "$(mktemp -d)" && python "$here/$example")
done
mkdocs build --strict --quiet --site-dir "$(mktemp -d)"
echo "all checks passed"
