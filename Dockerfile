# The command line on a CPU. `docker build -t db3kd .`, and then:
#   docker run --rm db3kd                                    the demo, two minutes
#   docker run --rm -v "$PWD:/work" -u "$(id -u):$(id -g)" db3kd db3kd run recipe.toml
FROM python:3.13-slim AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
RUN python -m venv /opt/db3kd
ENV PATH=/opt/db3kd/bin:$PATH
# What is large first, so that a change of the source installs none of it again.
COPY constraints.txt .
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install -c constraints.txt '.[onnx,sklearn,remote,parquet,report]'

FROM python:3.13-slim

LABEL org.opencontainers.image.title="db3kd" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --create-home --uid 1000 db3kd && install -d -o db3kd -g db3kd /work
COPY --from=build /opt/db3kd /opt/db3kd
COPY examples /opt/db3kd/examples
ENV PATH=/opt/db3kd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib
USER db3kd
WORKDIR /work
CMD ["python", "/opt/db3kd/examples/demo.py"]
