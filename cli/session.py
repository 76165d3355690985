"""One gateway and who is signed in there: every call of a command goes through here."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import grpc

from cli.credentials import Credential, CredentialFile
from cli.errors import explain
from cli.exits import CliError, Exit
from cli.output import note
from cli.settings import Settings

if TYPE_CHECKING:
    from aiops.iam.v1.user_pb2 import TokenPair

Request = TypeVar("Request")
Response = TypeVar("Response")
Result = TypeVar("Result")
Stub = TypeVar("Stub")
Metadata = tuple[tuple[str, str], ...]

ADMIN_EMAIL = "admin@localhost"
CALL_TIMEOUT_S = 30.0
UPLOAD_TIMEOUT_S = 3600.0
OPTIONS = [("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 5_000)]


class Session:
    """A channel to the gateway with the caller's credential."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._file = CredentialFile(settings.credentials)
        self._channel = _open(settings)

    def stub(self, kind: Callable[[grpc.Channel], Stub]) -> Stub:
        """A generated stub of the contract."""
        return kind(self._channel)

    def call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Response:
        """One signed-in call. Raises CliError."""
        return self._signed_in(lambda metadata: method(request, timeout=timeout_s, metadata=metadata))

    def upload(
        self, method: "grpc.StreamUnaryMultiCallable[Request, Response]", requests: Callable[[], Iterable[Request]]
    ) -> Response:
        """One signed-in call that sends many messages; `requests` starts over when the call is repeated."""
        return self._signed_in(lambda metadata: method(iter(requests()), timeout=UPLOAD_TIMEOUT_S, metadata=metadata))

    def stream(
        self, method: "grpc.UnaryStreamMultiCallable[Request, Response]", request: Request
    ) -> Iterator[Response]:
        """One signed-in call that answers many messages."""
        try:
            yield from method(request, metadata=self.metadata())
        except grpc.RpcError as error:
            raise explain(error, self.settings.url) from error

    def metadata(self) -> Metadata:
        """The authorization header as gRPC metadata."""
        return (("authorization", f"Bearer {self.token()}"),)

    def token(self) -> str:
        """A bearer token that is good for the next call: the API key, the stored one, or a renewed one."""
        if self.settings.api_key:
            return self.settings.api_key
        stored = self._file.get(self.settings.url)
        if stored is not None and stored.fresh:
            return stored.access_token
        return self._renew()

    def login(self, email: str, password: str) -> Credential:
        """Sign in and remember it. Raises CliError."""
        from aiops.iam.v1.auth_service_pb2 import LoginRequest
        from aiops.iam.v1.auth_service_pb2_grpc import AuthServiceStub

        request = LoginRequest(email=email, password=password)
        answer = self._explained(lambda: self.stub(AuthServiceStub).Login(request, timeout=CALL_TIMEOUT_S))
        return self._remember(email, answer.tokens)

    def logout(self) -> bool:
        """End the stored session; False when there was none."""
        from aiops.iam.v1.auth_service_pb2 import LogoutRequest
        from aiops.iam.v1.auth_service_pb2_grpc import AuthServiceStub

        stored = self._file.get(self.settings.url)
        if stored is None:
            return False
        self._file.put(self.settings.url, None)
        request = LogoutRequest(refresh_token=stored.refresh_token)
        self._explained(lambda: self.stub(AuthServiceStub).Logout(request, timeout=CALL_TIMEOUT_S))
        return True

    def _signed_in(self, attempt: Callable[[Metadata], Result]) -> Result:
        """Make the call; a token that is no longer accepted is replaced once."""
        try:
            return attempt(self.metadata())
        except grpc.RpcError as error:
            if not _is_unauthenticated(error) or self.settings.api_key:
                raise explain(error, self.settings.url) from error
            refused = explain(error, self.settings.url)
        stale = self._file.get(self.settings.url)
        if stale is None:
            raise refused
        token = self._renew(stale.access_token)
        return self._explained(lambda: attempt((("authorization", f"Bearer {token}"),)))

    def _renew(self, refused_token: str = "") -> str:
        """A new access token: by the refresh token, or as the admin of the embedded platform on this machine."""
        with self._file.exclusive():
            stored = self._file.get(self.settings.url)
            if stored is not None and stored.fresh and stored.access_token != refused_token:
                return stored.access_token
            renewed = self._refresh(stored) if stored is not None else None
            return (renewed or self._login_as_local_admin()).access_token

    def _refresh(self, stored: Credential) -> Credential | None:
        from aiops.iam.v1.auth_service_pb2 import RefreshRequest
        from aiops.iam.v1.auth_service_pb2_grpc import AuthServiceStub

        request = RefreshRequest(refresh_token=stored.refresh_token)
        try:
            answer = self.stub(AuthServiceStub).Refresh(request, timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            if not _is_unauthenticated(error):
                raise explain(error, self.settings.url) from error
            self._file.put(self.settings.url, None)
            return None
        return self._remember(stored.email, answer.tokens)

    def _login_as_local_admin(self) -> Credential:
        password = self.settings.home / "admin-password"
        if not self.settings.is_local or not password.exists():
            raise CliError(f"not signed in at {self.settings.url}", Exit.REFUSED, next_step="run `aiops login`")
        note(f"signing in as {ADMIN_EMAIL} with {password}")
        return self.login(ADMIN_EMAIL, password.read_text().strip())

    def _remember(self, email: str, tokens: "TokenPair") -> Credential:
        expires_at = time.time() + tokens.expires_in
        credential = Credential(email, tokens.access_token, tokens.refresh_token, expires_at)
        self._file.put(self.settings.url, credential)
        return credential

    def _explained(self, attempt: Callable[[], Result]) -> Result:
        try:
            return attempt()
        except grpc.RpcError as error:
            raise explain(error, self.settings.url) from error


def _open(settings: Settings) -> grpc.Channel:
    if settings.is_tls:
        return grpc.secure_channel(settings.target, grpc.ssl_channel_credentials(), options=OPTIONS)
    return grpc.insecure_channel(settings.target, options=OPTIONS)


def _is_unauthenticated(error: grpc.RpcError) -> bool:
    return error.code() is grpc.StatusCode.UNAUTHENTICATED
