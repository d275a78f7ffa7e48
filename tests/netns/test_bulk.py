"""A gibibyte each way, byte for byte."""
import os
import shutil

import pytest

import origins


@pytest.fixture(scope="module")
def noise(whole_lab):
    """The sha256 of https://big.example/files/noise."""
    if shutil.disk_usage(whole_lab.folder).free < 4 * origins.BIG_FILE:
        pytest.skip("less than 4 GiB free: no room for the big files")
    return origins.make_big_file(whole_lab)


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_download(lab, noise, scheme):
    run = lab.exec(["sh", "-c", f"curl -sS {scheme}://big.example/files/noise | sha256sum"], allow=["big.example"], timeout=180).ok()
    assert run.out.split()[0] == noise
    [end] = run.audit.ended("big.example")
    assert end["destination.bytes"] > origins.BIG_FILE


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_upload(lab, noise, scheme):
    source, target = lab.folder / "www/files/noise", lab.folder / "www/files/uploaded"
    run = lab.exec(["curl", "-sS", "--fail", "--http1.1", "-T", source, f"{scheme}://big.example/files/uploaded"],
                   allow=["big.example"], timeout=180).ok()
    assert origins.sha256(target) == noise
    os.unlink(target)
    [end] = run.audit.ended("big.example")
    assert end["source.bytes"] > origins.BIG_FILE
