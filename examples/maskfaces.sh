#!/usr/bin/env bash
# The ladder of docs/guides/ladder.md up to its best rung: from a folder of faces to submission.csv.
#
#     examples/maskfaces.sh FOLDER [OUT]
#
# About an hour on 2 cores. Stopped, it goes on where it was: finished runs stay, an unfinished one is continued.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
source="$(cd "$1" && pwd)"
out="${2:-finefold-maskfaces}"
mkdir -p "$out"
cd "$out"
finefold="${FINEFOLD:-finefold}"

[ -f data.toml ] || "$finefold" init "$source" --out data.toml
[ -f data.split.csv ] || "$finefold" split data.toml --folds 5
[ -f heads/manifest.json ] || "$finefold" train data.toml --recipe "$here/faces.toml" \
    --set model.heads=per_attribute --set image.crop_fraction=1.0 --out heads
[ -f joint/manifest.json ] || "$finefold" train data.toml --recipe "$here/faces.toml" --out joint
[ -f both/manifest.json ] || "$finefold" ensemble heads joint --by mean --out both
"$finefold" evaluate both
"$finefold" predict both --adapt-prior auto --out submission.csv
