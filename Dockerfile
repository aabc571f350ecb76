# The operator's image. Nothing is fetched while it is built: `make wheelhouse` fills dist/wheels first, with the
# locked dependencies for the Python of BASE (3.11) and pip itself.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
COPY dist/wheels /wheels
RUN python3 "$(echo /wheels/pip-*.whl)/pip" install --no-cache-dir --no-index --find-links=/wheels \
    --target=/opt/meshwright meshwright

FROM ${BASE}
COPY --from=build /opt/meshwright /opt/meshwright
ENV PYTHONPATH=/opt/meshwright PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["python3", "-m", "meshwright.controller"]
