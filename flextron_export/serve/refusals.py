"""Answers that are errors, in the form of the OpenAI API."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from ..errors import FlextronError, InputError, NoBudgetFitsError


class Refusal(Exception):
    """A request is not served.

    Args:
        status: of HTTP.
        message: what happened and what to do.
        code: for programs.
        headers: of the answer.
    """

    def __init__(self, status: int, message: str, code: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers

    def json(self) -> dict[str, Any]:
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.json(), self.status, headers=self.headers)


def refusal_of(error: FlextronError) -> Refusal:
    """What an error of the runtime means to a client. Only what concerns the request is told."""
    hint = error.what + (f" Next: {error.fix}." if error.fix else "")
    if isinstance(error, NoBudgetFitsError):
        return Refusal(400, f'{error.what} Raise the target, or send "best_effort": true.', "no_budget_fits")
    if isinstance(error, InputError):
        return Refusal(400, hint, "invalid_value")
    return Refusal(500, "The model could not run; the server's log says why.", "model_error")
