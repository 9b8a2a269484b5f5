# One image for the four services; the broker is the official nats image.
FROM python:3.12-slim

# libgomp is what the embedded llama.cpp links against and the slim image leaves out.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 yard \
    && mkdir /data && chown yard:yard /data
WORKDIR /app
COPY requirements requirements
RUN pip install --no-cache-dir --require-hashes -r requirements/run.lock
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY modelyard modelyard
COPY services services
# Editable, so that the page's files are served from where they lie.
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable .

USER yard
ENV YARD_HOME=/data PYTHONUNBUFFERED=1
VOLUME /data
CMD ["yard", "--help"]
