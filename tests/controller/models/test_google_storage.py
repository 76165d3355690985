"""Addresses that are signed for Google Cloud Storage, checked as Google's documentation says they are made."""

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from controller.models.objects import ObstoreObjects
from node_agent.cache.addresses import Signed
from node_agent.cache.model import ArtifactFile, StorageUnavailableError
from node_agent.cache.storage import Storage
from tests.fakes.eventually import eventually
from tests.fakes.google_storage import GoogleBucket, running_google_bucket

URL = "gs://models/below"
ACCOUNT = "tests@example.iam.gserviceaccount.com"
PATH = "blobs/a/weights"


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, 2048)


@pytest.fixture
def bucket(key: rsa.RSAPrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleBucket]:
    """A bucket, with a service account of it in the environment."""
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with running_google_bucket(ACCOUNT, key.public_key()) as bucket:
        account = {
            "type": "service_account",
            "client_email": ACCOUNT,
            "private_key_id": "1",
            "private_key": pem.decode(),
            "gcs_base_url": bucket.url,
        }
        (tmp_path / "account.json").write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
        yield bucket


async def test_a_node_reads_a_part_at_a_signed_address(bucket: GoogleBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    objects, content = ObstoreObjects(URL), os.urandom(100_000)
    sink = objects.create(PATH, len(content))
    await sink.write(content)
    file = ArtifactFile("weights", len(content), (await sink.close()).sha256, object=PATH)
    monkeypatch.delenv("GOOGLE_SERVICE_ACCOUNT")
    lifetime, addition = timedelta(minutes=1), ""

    async def sign(asked: ArtifactFile) -> Signed:
        return Signed(await objects.sign(URL, asked.key, lifetime) + addition, timedelta(minutes=1))

    assert await Storage(sign).read(URL, file, 5, 1000) == content[5:1005]
    addition = "0"
    with pytest.raises(StorageUnavailableError, match="403 SignatureDoesNotMatch"):
        await Storage(sign).read(URL, file, 5, 1000)
    lifetime, addition = timedelta(seconds=1), ""
    storage = Storage(sign)

    async def ended() -> bool:
        try:
            return await storage.read(URL, file, 0, 1) != content[:1]
        except StorageUnavailableError as refused:
            return "400 ExpiredToken" in refused.message

    await eventually(ended)
    lifetime = timedelta(minutes=1)
    assert await storage.read(URL, file, 0, 1) == content[:1]
