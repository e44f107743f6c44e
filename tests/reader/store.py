"""Where a repository's objects lie: in memory, in files below a folder, or below a prefix of a bucket."""

from pathlib import Path

from refused import demand


class Memory:
    def __init__(self, objects):
        self.objects = objects

    def names(self, prefix):
        """Names that begin with `prefix`, which ends with a slash."""
        return sorted(name for name in self.objects if name.startswith(prefix))

    def size(self, name):
        return len(self.read(name))

    def read(self, name):
        demand(name in self.objects, f"{name} is missing")
        return self.objects[name]

    def read_range(self, name, offset, length):
        """Fewer bytes if the object ends before."""
        return self.read(name)[offset:offset + length]


class Folder:
    def __init__(self, path):
        self.path = Path(path)

    def names(self, prefix):
        files = (p for p in (self.path / prefix).rglob("*") if p.is_file())
        return sorted(str(p.relative_to(self.path)) for p in files)

    def read_all(self):
        return {name: self.read(name) for name in self.names("")}

    def file(self, name):
        path = self.path / name
        demand(path.is_file(), f"{name} is missing")
        return path

    def size(self, name):
        return self.file(name).stat().st_size

    def read(self, name):
        return self.file(name).read_bytes()

    def read_range(self, name, offset, length):
        with open(self.file(name), "rb") as file:
            file.seek(offset)
            return file.read(length)


def s3_client():
    import boto3

    return boto3.client("s3", region_name="us-east-1")


class Bucket:
    def __init__(self, address):
        self.s3 = s3_client()
        self.bucket, _, prefix = address.removeprefix("s3://").partition("/")
        self.prefix = prefix.rstrip("/") + "/" if prefix else ""

    def names(self, prefix):
        pages = self.s3.get_paginator("list_objects_v2")
        keys = (item["Key"]
                for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
                for item in page.get("Contents", []))
        return sorted(key.removeprefix(self.prefix) for key in keys)

    def call(self, method, name, **arguments):
        from botocore.exceptions import ClientError

        try:
            return method(Bucket=self.bucket, Key=self.prefix + name, **arguments)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            demand(code not in ("404", "NoSuchKey"), f"{name} is missing")
            demand(code != "InvalidRange", f"{name} ends too early")
            raise

    def size(self, name):
        return self.call(self.s3.head_object, name)["ContentLength"]

    def read(self, name):
        return self.call(self.s3.get_object, name)["Body"].read()

    def read_range(self, name, offset, length):
        within = f"bytes={offset}-{offset + length - 1}"
        return self.call(self.s3.get_object, name, Range=within)["Body"].read()


def store_at(place):
    """The store at `s3://BUCKET/PREFIX`, `file:///FOLDER` or a folder's path."""
    if place.startswith("s3://"):
        return Bucket(place)
    return Folder(place.removeprefix("file://"))
