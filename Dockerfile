# An agent host: measures models on the machine it runs on, on phones that it reaches, and for a farm: docker run … agent --farm …
# It has no torch, which measuring does not need.
FROM python:3.11-slim AS build
COPY . /src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /src

FROM python:3.11-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-deps /wheels/*.whl \
    && pip install --no-cache-dir "adbutils>=2.12,<3" "ai-edge-litert>=2.3,<3" "cryptography>=43" "distributed>=2026.8" "numpy>=1.26" \
        "onnxruntime>=1.24" "psycopg[binary]>=3.2" "pydantic>=2.9" "rich>=13" "scipy>=1.11" "sqlalchemy>=2.0.30" "typer>=0.15" \
    && useradd --create-home --uid 10001 paceline
USER 10001
WORKDIR /home/paceline
ENTRYPOINT ["paceline"]
CMD ["devices"]
