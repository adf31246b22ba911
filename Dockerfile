# The engine and its server for a CPU. For an NVIDIA GPU: docker build --build-arg TORCH_INDEX= .
#
#   docker build -t gsr-engine .
#   docker run --rm gsr-engine demo
#   docker run --rm -p 8000:8000 -v ~/.cache/huggingface:/home/gsr/.cache/huggingface gsr-engine \
#       serve HuggingFaceTB/SmolLM2-135M-Instruct --host 0.0.0.0
FROM python:3.12-slim

ARG TORCH=torch==2.13.0
# A pip index for torch alone; empty takes pip's own, mostly the large CUDA build.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# Torch goes first and alone, so that its index is used for nothing else and its layer is kept.
RUN pip install --no-cache-dir "${TORCH}" ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"}

COPY pyproject.toml README.md LICENSE /src/
COPY csrc_triton /src/csrc_triton
COPY gsr_engine /src/gsr_engine
RUN pip install --no-cache-dir "/src[serve,gguf]" && rm -r /src

# Kernels of a CPU are compiled on the machine that runs them, at the first start, into its cache.
RUN useradd --create-home --uid 1000 gsr
USER 1000
WORKDIR /home/gsr

EXPOSE 8000
# gsr is process 1, so a SIGTERM reaches it.
ENTRYPOINT ["gsr"]
CMD ["serve", "--host", "0.0.0.0"]
