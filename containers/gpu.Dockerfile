# calib8 with the full TensorRT of NVIDIA's image, for the GPU of the machine that it runs on.
#
#   docker build -f containers/gpu.Dockerfile -t calib8:gpu .
#   docker run --rm --gpus all calib8:gpu doctor
#
# 25.12 has TensorRT 10.14; others: --build-arg TENSORRT=26.06 has TensorRT 11.
ARG TENSORRT=25.12
FROM nvcr.io/nvidia/tensorrt:${TENSORRT}-py3
# No versions of packages: Ubuntu takes each from its mirrors when the next is there.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin calib8 \
    && install --directory --owner calib8 /models
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE MANIFEST.in ./
COPY src src
# The image's own TensorRT: if Python does not find it, this fails here, and not on the first engine.
RUN python3 -m venv --system-site-packages /opt/calib8 \
    && /opt/calib8/bin/pip install --no-cache-dir --constraint constraints.txt \
        '.[monitor,openvino,report,serve]' cuda-python \
    && /opt/calib8/bin/python -c 'import tensorrt; print("TensorRT", tensorrt.__version__)'
COPY examples/mpnet /usr/share/calib8/mpnet
ENV PATH=/opt/calib8/bin:$PATH CALIB8_CACHE=/tmp/calib8 MPLCONFIGDIR=/tmp/matplotlib PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /models
ENTRYPOINT ["calib8"]
CMD ["doctor"]
