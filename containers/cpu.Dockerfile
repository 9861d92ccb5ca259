# calib8 for machines without a GPU: quantises, builds engines with TensorRT-RTX, serves INT8 models on the CPU.
#
#   docker build -f containers/cpu.Dockerfile -t calib8:cpu .
#   docker run --rm calib8:cpu doctor
FROM debian:12.15-slim AS build
# No versions of packages: Debian takes each from its mirrors when the next is there.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE MANIFEST.in ./
COPY src src
RUN python3 -m venv /opt/calib8 \
    && /opt/calib8/bin/pip install --no-cache-dir --constraint constraints.txt '.[openvino,report,rtx,serve]'

FROM debian:12.15-slim
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends python3 ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin calib8 \
    && install --directory --owner calib8 /models
COPY --from=build /opt/calib8 /opt/calib8
COPY examples/mpnet /usr/share/calib8/mpnet
ENV PATH=/opt/calib8/bin:/usr/bin:/bin CALIB8_CACHE=/tmp/calib8 MPLCONFIGDIR=/tmp/matplotlib PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /models
ENTRYPOINT ["calib8"]
CMD ["doctor"]
