"""The codes with which a request may end without a result, for programs; the reason beside them is for people."""

from __future__ import annotations

REQUEST_ERRORS = {
    "bad-input": "the payload is no picture and no array, or does not fit the model; or the response topic is no place "
    "for answers",
    "no-model": "no model of that name is served, or it was removed meanwhile",
    "busy": "32 requests wait already, or 128 MB of them",
    "agent-lost": "agents with work in the request went offline, restarted or were late, in six attempts",
    "no-agents": "nobody is left",
    "tile-failed": "its tiles fail wherever they run, or in six attempts",
    "deadline": "no answer within 120 s, or the request's message expiry where that is shorter",
    "restarted": "the orchestrator ended, or was killed, before it had an answer",
}
