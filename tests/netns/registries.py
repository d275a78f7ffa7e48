"""
What npm, pip and apt install from, as static files behind the lab's nginx: each a small registry of its own, whose packages
lie on another host, as the real ones do.

    https://npm.example/files/npm/          two packages, one of which needs the other; tarballs on files.example
    https://pypi.example/files/pypi/simple/ one project; its wheel on files.example
    http://deb.example/files/apt/           one flat repository with one package
"""
import base64
import hashlib
import io
import json
import subprocess
import tarfile
import zipfile


def make_npm(www):
    (www / "npm").mkdir(parents=True, exist_ok=True)
    (www / "tarballs").mkdir(exist_ok=True)
    for name, needs in (("gate-app", {"gate-lib": "^1.0.0"}), ("gate-lib", {})):
        manifest = {"name": name, "version": "1.0.0", "dependencies": needs, "main": "index.js"}
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for path, text in (("package/package.json", json.dumps(manifest)), ("package/index.js", f"module.exports = '{name}'\n")):
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(text), 0o644
                archive.addfile(entry, io.BytesIO(text.encode()))
        data = packed.getvalue()
        (www / f"tarballs/{name}-1.0.0.tgz").write_bytes(data)
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
        dist = {"tarball": f"https://files.example/files/tarballs/{name}-1.0.0.tgz", "integrity": integrity,
                "shasum": hashlib.sha1(data).hexdigest()}
        document = {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {**manifest, "dist": dist}}}
        (www / f"npm/{name}").write_text(json.dumps(document))


def make_pypi(www):
    (www / "pypi/simple/gate-wheel").mkdir(parents=True, exist_ok=True)
    (www / "wheels").mkdir(exist_ok=True)
    wheel, info = "gate_wheel-1.0-py3-none-any.whl", "gate_wheel-1.0.dist-info"
    with zipfile.ZipFile(www / "wheels" / wheel, "w") as archive:
        archive.writestr("gate_wheel.py", "NAME = 'gate'\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: gate-wheel\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"gate_wheel.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    (www / "pypi/simple/gate-wheel/index.html").write_text(
        f'<!DOCTYPE html><html><body><a href="https://files.example/files/wheels/{wheel}">{wheel}</a></body></html>\n')


def make_apt(www):
    tree = www / "apt/tree"
    (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
    control = "Package: gate-deb\nVersion: 1.0\nArchitecture: all\nMaintainer: Tester <tester@allowed.example>\n" \
              "Description: a package of the tests\n"
    (tree / "DEBIAN/control").write_text(control)
    for folder in (tree, tree / "DEBIAN"):
        folder.chmod(0o755)
    package = www / "apt/gate-deb_1.0_all.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", tree, package], check=True, capture_output=True)
    data = package.read_bytes()
    (www / "apt/Packages").write_text(f"{control}Filename: ./{package.name}\nSize: {len(data)}\n"
                                      f"SHA256: {hashlib.sha256(data).hexdigest()}\n\n")


def make_all(lab):
    www = lab.folder / "www/files"
    make_npm(www)
    make_pypi(www)
    make_apt(www)


def apt_configuration(folder):
    """An apt of its own under this folder: nothing of the machine's is read or written."""
    for made in ("etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "etc/trusted.gpg.d", "state/lists/partial",
                 "cache/archives/partial", "log"):
        (folder / made).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    (folder / "etc/sources.list").write_text("deb [trusted=yes] http://deb.example/files/apt ./\n")
    path = folder / "apt.conf"
    path.write_text(f"""
Dir "{folder}"; Dir::Etc "etc"; Dir::State "state"; Dir::State::status "{folder}/status"; Dir::Cache "cache"; Dir::Log "log";
Dir::Bin::methods "/usr/lib/apt/methods"; Dir::Bin::dpkg "/usr/bin/dpkg"; Dir::Etc::sourceparts "sources.list.d";
APT::Sandbox::User "root"; Acquire::Languages "none"; Acquire::Check-Valid-Until "false"; APT::Architecture "amd64";
""")
    return path
