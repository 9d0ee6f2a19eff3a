"""An OpenAI-compatible HTTP endpoint over one bundle (docs/serving.md). Needs the extra `serve`."""
