# The image of the nodes on Kubernetes, and of one big machine; it holds no secret and no data.
#
#   docker build -t REGISTRY/backbone-benchmark:0.1.0 .
#   docker push REGISTRY/backbone-benchmark:0.1.0
#   docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" -w /work -u "$(id -u)" -e HOME=/tmp \
#       REGISTRY/backbone-benchmark:0.1.0 benchmark run experiments/quickstart.toml
#
# Cost: 10 to 20 minutes, most of it PyTorch with its CUDA libraries, and some 10 GB. The NVIDIA
# driver is the host's; without one the same image computes on CPUs.

# The digest of the multi-architecture index: the tag alone may move. `docker buildx imagetools
# inspect python:3.11.14-slim-bookworm` prints the present one.
FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

# libexpat1 is what the wheels of rasterio lack.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libexpat1 \
    && rm -rf /var/lib/apt/lists/*

# Open to any user, as /tmp is: `docker run -u` and Kubernetes may choose another than this one.
RUN useradd --create-home --uid 1000 --shell /bin/bash ray \
    && install -d -m 1777 /cache /data /spill

WORKDIR /opt/backbone-benchmark
COPY pyproject.toml constraints.txt LICENSE README.md ./
COPY benchmark ./benchmark
COPY jobs ./jobs
COPY experiments ./experiments
RUN pip install --no-cache-dir -c constraints.txt ".[aws]"

# Models of the hub; a volume there outlives the container. The NVIDIA lines are for its runtime.
ENV HOME=/home/ray \
    HF_HOME=/cache/huggingface \
    RAY_USAGE_STATS_ENABLED=0 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# A number, not a name: Kubernetes can tell from it alone that it is not root.
USER 1000:1000
WORKDIR /home/ray
CMD ["benchmark", "--help"]
