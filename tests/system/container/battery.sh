#!/usr/bin/env bash
# Builds the image and runs a battery in it: battery.sh user|root battery|integrity OPTIONS...
#
# user   as the compose file runs the service: not root, without capabilities
# root   the container's root user with podman's default capabilities
# The attacks on the host are tests.sandbox.battery, the cheats tests.sandbox.integrity. What follows goes to it. The tests are not part of the image and are shown to it read-only.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/image.sh"

case "$1" in
user) who=(--cap-drop=all) ;;
root) who=(--user 0:0) ;;
*) echo "battery.sh user|root battery|integrity OPTIONS..." >&2; exit 2 ;;
esac
battery="$2"
shift 2
echo "== battery"
"${podman[@]}" run --rm "${box[@]}" "${who[@]}" --volume "$root/tests:/tests/tests:ro" --env PYTHONPATH=/tests \
    --workdir /tmp "$image" python -m "tests.sandbox.$battery" "$@"
