# Bitlane in a container: a non-root user, a root file system that may be read-only, state in /data alone.
#
#   docker build -t bitlane .                                    torch with CUDA (several GB)
#   docker build -t bitlane --build-arg TORCH_INDEX=URL .        torch from an index with CPU-only builds
#
# A pip.conf that the build needs (a mirror, a proxy's certificate) goes in as a secret and stays out of the image:
#   docker build --secret id=pipconf,src=$HOME/.config/pip/pip.conf ...
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG PYTHON=python3
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN ${PYTHON} -m venv /opt/bitlane
COPY pyproject.toml constraints.txt ./
# What the service needs, before its own code: a change of the code does not install torch again.
RUN --mount=type=secret,id=pipconf,target=/etc/pip.conf \
    set -eu; \
    /opt/bitlane/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > requirements.txt; \
    if [ -n "${TORCH_INDEX}" ]; then \
        /opt/bitlane/bin/pip install -qq --no-deps --index-url "${TORCH_INDEX}" -c constraints.txt torch; \
    fi; \
    /opt/bitlane/bin/pip install -qq -c constraints.txt -r requirements.txt
COPY LICENSE README.md ./
COPY app app
COPY bitlane bitlane
RUN --mount=type=secret,id=pipconf,target=/etc/pip.conf \
    /opt/bitlane/bin/pip install -qq --no-deps .

FROM ${BASE}
COPY --from=build /opt/bitlane /opt/bitlane
RUN mkdir /data && chown 10001:10001 /data
# HOME and the compiler cache are on the volume, since nothing else can be written. The container's network is trusted:
# this version has no keys, so publish the port to 127.0.0.1 only (compose.yaml does).
ENV PATH=/opt/bitlane/bin:$PATH \
    HOME=/data \
    NUMBA_CACHE_DIR=/data/cache/numba \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    BITLANE_TRUSTED_NETWORK=1
USER 10001:10001
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/livez', timeout=2)"]
CMD ["bitlane", "serve", "--host", "0.0.0.0", "--port", "8080", "--data", "/data"]
