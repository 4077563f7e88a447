#!/usr/bin/env bash
# One gate in a workflow: pytest, then the report into the step summary, whatever pytest said.
#
#   .github/gate.sh RUN_DIR [pytest's options]
set -euo pipefail
run_dir=$1
shift
python=${VENV:-.venv}/bin/python

status=0
"$python" -m pytest --run-dir "$run_dir" "$@" || status=$?
echo "status=$status" >>"$GITHUB_OUTPUT"

if [ -f "$run_dir/run.json" ]; then
    "$python" -m suite.cli report "$run_dir" --out "$run_dir/report" --summary "$GITHUB_STEP_SUMMARY" ||
        echo "::warning title=Report::No report was written. The verdicts stand: see the log."
fi

case $status in
0) ;;
1) echo "::error title=Gate::A claim regressed, or a kernel is incorrect, failed or has no verdict. The summary names it." ;;
6) echo "::error title=Unfit runner::This runner cannot tell a slow kernel from a fast one at present. No kernel was judged; look at the runner, then run again." ;;
*) echo "::error title=pytest::pytest ended with status $status before every claim was judged. Its output says why." ;;
esac
exit "$status"
