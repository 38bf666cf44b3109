# Two stages: one builds a virtual environment, the other runs it as a user without rights.
#
#   docker build -t stream-detector .
#   docker build -t stream-detector --build-arg PIP_ARGS='--extra-index-url URL' .
#
# PIP_ARGS is handed to pip: with an index of CPU-only torch wheels the image is a fraction of the size; without one
# it holds the CUDA build and uses a GPU where the container is given one.

ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG PIP_ARGS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /venv
# The dependencies first, in a layer that changes only with pyproject.toml.
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
    && /venv/bin/pip install ${PIP_ARGS} -r requirements.txt
COPY README.md LICENSE ./
COPY stream_detector stream_detector
COPY producers producers
RUN /venv/bin/pip install --no-deps .

FROM ${PYTHON_IMAGE}
# Named volumes mounted on these folders take over their owner.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin detector \
    && install -d -o detector -g detector /artifacts /recordings
COPY --from=build /venv /venv
COPY configs /configs
ENV PATH=/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    STREAM_DETECTOR__METRICS__HOST=0.0.0.0 \
    STREAM_DETECTOR__METRICS__PORT=9464
WORKDIR /tmp
USER 10001:10001
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9464/healthz', timeout=4)"]
ENTRYPOINT ["stream-detector"]
CMD ["--help"]
