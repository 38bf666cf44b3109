"""Tokens for SASL/OAUTHBEARER, fetched by the client credentials grant (RFC 6749, section 4.4)."""

from __future__ import annotations

import json
import math
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from functools import cache
from typing import Any
from urllib.parse import quote_plus, urlencode

from kafka import errors as kafka_errors
from kafka.net.sasl.oauth import AbstractTokenProvider

from stream_detector.config import OAuthConfig
from stream_detector.errors import BrokerError, BrokerLoginError, ConfigError
from stream_detector.telemetry.redaction import hide

#: A token is replaced once this share of its life is over; brokers ask for it again at 85 % of theirs.
_FRESH = 0.8
#: Life of a token whose endpoint doesn't say, seconds.
_DEFAULT_LIFE_S = 300.0
_MOST_BYTES = 65_536
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # b64token of RFC 6750: what may stand behind "Bearer"


class TokenProvider(AbstractTokenProvider):
    """Keeps one token for all clients of a process, and replaces it before it ends.

    Safe to use from several threads.
    """

    def __init__(self, oauth: OAuthConfig, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Read the secret; ask for nothing yet. Raises ConfigError when the secret or the authority can't be read."""
        self._oauth = oauth
        self._clock = clock_s
        self._lock = threading.Lock()
        self._token = ""
        self._replace_at = -math.inf
        self._ends_at = -math.inf
        self._login()  # what is wrong with the settings is an error at the start

    def _login(self) -> tuple[str, ssl.SSLContext]:
        """Return the header that authenticates this client, and whom to trust, as their files are now."""
        oauth = self._oauth
        secret = oauth.client_secret.reveal()
        try:
            context = ssl.create_default_context(cafile=oauth.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"kafka.security.oauth.ca_file ({oauth.ca_file}) can't be used: {error}") from error
        # RFC 6749, section 2.3.1: both form-encoded, as a user and password of HTTP Basic.
        pair = f"{quote_plus(oauth.client_id)}:{quote_plus(secret)}"
        return hide(f"Basic {b64encode(pair.encode()).decode()}"), context

    def token(self) -> str:
        """Return a token that is good for a while; called by the client whenever it logs in.

        Raises KafkaConnectionError, after which the client tries again.
        """
        try:
            return self.fetch()
        except (BrokerError, ConfigError) as error:
            raise kafka_errors.KafkaConnectionError(str(error)) from error

    def fetch(self) -> str:
        """Return a token that is good for a while.

        Raises BrokerLoginError when the endpoint refuses this client, BrokerError when it can't be reached and the
        last token has ended.
        """
        with self._lock:
            if self._clock() >= self._replace_at:
                try:
                    self._replace()
                except BrokerLoginError:
                    raise
                except BrokerError:
                    if self._clock() >= self._ends_at:
                        raise  # else: the last one is still good; the endpoint is asked again next time
            return self._token

    def _replace(self) -> None:
        asked = self._clock()
        answer = self._ask()
        token, life = answer.get("access_token"), answer.get("expires_in", _DEFAULT_LIFE_S)
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise BrokerLoginError(f"{self._name()} answered without a usable access_token")
        if answer.get("token_type", "Bearer").lower() != "bearer":
            raise BrokerLoginError(f"{self._name()} gave a token that is no bearer token")
        try:
            life = float(life)
        except (TypeError, ValueError):
            life = _DEFAULT_LIFE_S
        if not (math.isfinite(life) and life > 0):
            raise BrokerLoginError(f"{self._name()} gave a token that has ended already (expires_in: {life})")
        self._token = hide(token)
        self._replace_at, self._ends_at = asked + _FRESH * life, asked + life

    def _ask(self) -> dict[str, Any]:
        form = {"grant_type": "client_credentials"}
        if self._oauth.scope is not None:
            form["scope"] = self._oauth.scope
        try:
            authorization, context = self._login()
        except ConfigError as error:  # it could be read at the start: perhaps it is being replaced
            raise BrokerError(str(error)) from error
        request = urllib.request.Request(
            self._oauth.token_url,
            data=urlencode(form).encode(),
            headers={"Authorization": authorization, "Accept": "application/json"},
        )
        # No redirects: they would carry the secret to wherever the answer says.
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirect)
        try:
            with opener.open(request, timeout=self._oauth.timeout_ms / 1_000) as response:
                body = response.read(_MOST_BYTES)
        except urllib.error.HTTPError as error:
            why = f"{error.code} {_reason(error)}".strip()
            if error.code >= 500 or error.code == 429:
                raise BrokerError(f"{self._name()} can't answer now: {why}") from None
            raise BrokerLoginError(
                f"{self._name()} refused client {self._oauth.client_id!r}: {why}; "
                "look at kafka.security.oauth (client_id, client_secret, scope)"
            ) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise BrokerLoginError(
                    f"{self._name()} has a certificate that is not trusted: {error.reason.verify_message}; "
                    "look at kafka.security.oauth.ca_file"
                ) from None
            raise BrokerError(f"{self._name()} can't be reached: {error.reason}") from None
        except OSError as error:
            raise BrokerError(f"{self._name()} can't be reached: {error}") from None
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise BrokerLoginError(f"{self._name()} answered with something that is no JSON object; is the URL right?")
        return answer

    def _name(self) -> str:
        return f"the token endpoint {self._oauth.token_url}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        """Follow none: the answer stays an error."""


def _reason(error: urllib.error.HTTPError) -> str:
    """Return what RFC 6749, section 5.2, says of a refusal."""
    try:
        answer = json.loads(error.read(_MOST_BYTES))
        parts = [answer.get("error"), answer.get("error_description")]
    except (ValueError, AttributeError, OSError, RecursionError):
        return str(error.reason)
    return ": ".join(part[:200] for part in parts if isinstance(part, str)) or str(error.reason)


@cache
def provider(oauth: OAuthConfig) -> TokenProvider:
    """Return the one provider of these settings in this process."""
    return TokenProvider(oauth)
