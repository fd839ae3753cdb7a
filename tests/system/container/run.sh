#!/usr/bin/env bash
# Builds the image and has a container finish one job: as a non-root user, with a read-only root file system, without
# capabilities and without a network, under the default seccomp profile. image.sh tells what the environment may set.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/image.sh"

container=
finish() {
    status=$?
    if [ -n "$container" ]; then
        [ "$status" -eq 0 ] || "${podman[@]}" logs --tail 60 "$container" >&2 || true
        "${podman[@]}" rm --force --volumes "$container" >/dev/null || true
    fi
    rm -rf "$work"
}
trap finish EXIT

echo "== run"
container="$("${podman[@]}" run --detach "${box[@]}" --cap-drop=all "$image")"
"${podman[@]}" exec --interactive "$container" python - <"$here/job.py"
"${podman[@]}" healthcheck run "$container" >/dev/null
echo "health check passes"

echo "== stop"
"${podman[@]}" stop --time 20 "$container" >/dev/null
echo "exit code $(podman inspect --format '{{.State.ExitCode}}' "$container")"
