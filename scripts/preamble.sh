#!/usr/bin/env bash
# The first lines of the scripts that people type, which source it; by itself it does nothing that lasts. It answers --help
# with the comment at their head and sets ROOT (of the repository), PROJECT (what stands in front of its folders: nothing
# where that is the current one, for messages need no long paths), and DATASET_DIR and OUTPUT_DIR where they are not set.
#
#   bash scripts/preamble.sh --help
set -euo pipefail

script="${BASH_SOURCE[1]:-$0}"
ROOT="$(cd "$(dirname "$script")/.." && pwd)"
if [[ "${1:-}" == "--help" || "${1:-}" == "-h" ]]; then sed -n '2,/^set/{s/^# \{0,1\}//p}' "$script"; exit 0; fi
PROJECT="$ROOT/"
if [[ "$PWD" == "$ROOT" ]]; then PROJECT=""; fi
# shellcheck disable=SC2034 # by the script that sources this
DATASET_DIR="${DATASET_DIR:-${PROJECT}dataset}" OUTPUT_DIR="${OUTPUT_DIR:-${PROJECT}data/annotaions}"
