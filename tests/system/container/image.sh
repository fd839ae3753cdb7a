# Sourced: builds the image with podman and sets what its containers are run with.
#
# The base image is Debian's own Python, made with mmdebstrap, where the Dockerfile's base is not in local storage.
# BITLANE_IMAGE   the name to give the image
# RUNTIME         podman's OCI runtime
# SECCOMP         a file with another seccomp profile than podman's default
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../../.." && pwd)"
image="${BITLANE_IMAGE:-localhost/bitlane:test}"
base="$(sed -n 's/^ARG BASE=//p' "$root/Dockerfile")"
python="$root/.venv/bin/python"
[ -x "$python" ] || python=python3

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# Below fatal, podman without systemd complains at every step that nothing will run the health check by itself.
podman=(podman --log-level fatal)
# crun fails under a cgroup v1 layout, and a nested podman may not raise the limits that it would set by itself.
if [ -n "${RUNTIME:-}" ] || command -v runc >/dev/null; then
    podman+=(--runtime "${RUNTIME:-runc}")
fi
limits=(--ulimit nofile=1024:1024 --ulimit nproc=20000:20000)
# As the compose file runs it, but without a network. A non-root user is the image's own setting.
box=("${limits[@]}" --read-only --tmpfs /tmp:size=1g,mode=1777 --volume /data --network none
    --security-opt no-new-privileges ${SECCOMP:+--security-opt "seccomp=$SECCOMP"})

if ! podman image exists "$base"; then
    echo "== base image: Debian's Python, as $base"
    mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
        bookworm "$work/base.tar"
    podman import --quiet "$work/base.tar" "$base" >/dev/null
    rm "$work/base.tar"
fi

echo "== build"
mounts=()
torch_index=()
while IFS= read -r path; do
    mounts+=(--volume "$path:$path:ro")
    # Where a wheel folder of this host has a CPU build of torch, the Dockerfile's index is not needed.
    if compgen -G "$path/torch-*+cpu-*.whl" >/dev/null; then
        torch_index=(--build-arg TORCH_INDEX=)
    fi
done < <("$python" "$here/host_pip.py" "$work/pip.conf")
if [ -n "${TORCH_INDEX+set}" ]; then
    torch_index=(--build-arg "TORCH_INDEX=$TORCH_INDEX")
fi
started=$SECONDS
"${podman[@]}" build --quiet --network host "${limits[@]}" "${mounts[@]}" "${torch_index[@]}" \
    --secret "id=pipconf,src=$work/pip.conf" --format docker --tag "$image" "$root" >/dev/null
echo "built in $((SECONDS - started)) s, $(podman image inspect --format '{{.Size}}' "$image") bytes"
