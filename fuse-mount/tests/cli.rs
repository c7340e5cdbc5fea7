//! The command line without a mount: bad input, exit codes, settings and their sources.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use common::{Lab, Ran};

#[test]
fn bad_names_are_usage_errors_that_say_why() {
    let lab = Lab::new();
    let long = "x".repeat(256);
    for (name, part) in
        [("a/b", "a/b"), (".hidden", ".hidden"), ("", "\"\""), (long.as_str(), "255")]
    {
        lab.run(&["create", name, "--size", "1G"]).failure(2, &[part]);
        lab.run(&["info", name]).failure(2, &[part]);
    }
    let not_utf8 = OsStr::from_bytes(b"bad\xff");
    let ran =
        Ran(lab.command().arg("create").arg(not_utf8).args(["--size", "1G"]).output().unwrap());
    ran.failure(2, &["UTF-8", "bad"]);
}

#[test]
fn bad_sizes_are_usage_errors_that_say_why() {
    let lab = Lab::new();
    for (size, part) in [
        ("0", "empty"),
        ("1000", "4096"),
        ("8E", "2^63"),
        ("99E", "too large"),
        ("ten", "10G"),
        ("-1", "-1"),
    ] {
        lab.run(&["create", "a", &format!("--size={size}")]).failure(2, &[part]);
    }
    lab.run(&["resize", "a", "4097"]).failure(2, &["8192"]);
    let touched = std::fs::read_dir(lab.store_dir()).unwrap().count();
    assert_eq!(touched, 0, "a refused command touched the store");
}

#[test]
fn bad_flags_are_one_line_usage_errors() {
    let lab = Lab::new();
    lab.run(&["create", "a"]).failure(2, &["--size"]);
    lab.run(&["frobnicate"]).failure(2, &["frobnicate"]);
    lab.run(&["list", "--wrong"]).failure(2, &["--wrong"]);
    lab.run(&["info"]).failure(2, &["NAME"]);
    lab.run(&["mount", "/", "--log-size", "1K"]).failure(2, &["--log-size", "32 MiB"]);
    lab.run(&["mount", "/", "--compression", "gzip"]).failure(2, &["--compression", "zstd"]);
    lab.run(&["mount", "/", "--batch-age", "soon"]).failure(2, &["--batch-age", "2s"]);
    lab.run(&["mount", "/", "--snapshot-schedule", "yearly=3"])
        .failure(2, &["--snapshot-schedule", "hourly, daily", "1 to 1000"]);
    lab.run(&["--store", "ftp://x", "list"]).failure(2, &["ftp", "file:///"]);
    assert!(lab.ok(&["--help"]).contains("Examples:"));
    assert!(lab.ok(&["mount", "--help"]).contains("LSVD_LOG_SIZE"));
}

#[test]
fn missing_volumes_and_taken_names_fail() {
    let lab = Lab::new();
    lab.run(&["info", "ghost"]).failure(1, &["ghost", "does not exist"]);
    lab.run(&["delete", "ghost"]).failure(1, &["ghost"]);
    lab.ok(&["create", "a.img", "--size", "64M"]);
    lab.run(&["create", "a.img", "--size", "64M"]).failure(1, &["a.img", "exists already"]);
    lab.ok(&["create", "b.img", "--size", "64M"]);
    lab.run(&["rename", "a.img", "b.img"]).failure(1, &["b.img", "exists already"]);
}

#[test]
fn commands_without_a_mount_do_the_whole_round() {
    let lab = Lab::new();
    assert!(lab.ok(&["list"]).contains("no volumes"));
    lab.ok(&["create", "a.img", "--size", "64M"]);
    assert_eq!(lab.json(&["info", "a.img"])["size_bytes"], 64 << 20);
    lab.ok(&["resize", "a.img", "128M"]);
    lab.ok(&["rename", "a.img", "b.img"]);
    let listed = lab.json(&["list"]);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["name"], "b.img");
    assert_eq!(listed[0]["size_bytes"], 128 << 20);
    lab.ok(&["flush", "b.img"]);
    lab.ok(&["flush", "b.img", "--wait"]);
    let inspected = lab.json(&["inspect", "b.img"]);
    assert_eq!(inspected["log"]["writes"], 0);
    assert_eq!(inspected["cache"]["off"], false);
    lab.ok(&["delete", "b.img"]);
    assert_eq!(lab.json(&["list"]).as_array().unwrap().len(), 0);
}

#[test]
fn flags_beat_variables_beat_the_file_beat_defaults() {
    let lab = Lab::new();
    let file = lab.path().join("lsvd.toml");
    fs::write(
        &file,
        "log-size = \"2G\"\nbatch-size = \"4M\"\nlog-memory = \"64M\"\n[volume.\"db.img\"]\nlog-size = \"3G\"\ncompression = \"none\"\nsnapshot-schedule = \"daily=7  hourly=24\"\n",
    )
    .unwrap();
    let shown = |volume: &[&str]| -> serde_json::Value {
        let mut command = lab.command();
        command.env("LSVD_BATCH_SIZE", "16M").args([
            "info",
            "--effective-config",
            "--json",
            "--config",
        ]);
        command.arg(&file).args(["--cache-dir", "/flag/cache"]).args(volume);
        serde_json::from_str(&Ran(command.output().unwrap()).success()).unwrap()
    };
    let row = |shown: &serde_json::Value, key: &str| -> (String, String) {
        let rows = shown["settings"].as_array().unwrap();
        let row = rows.iter().find(|row| row["key"] == key).unwrap();
        (row["value"].as_str().unwrap().to_owned(), row["source"].as_str().unwrap().to_owned())
    };
    let path = file.to_str().unwrap();
    let all = shown(&[]);
    assert_eq!(row(&all, "cache-dir"), ("/flag/cache".into(), "--cache-dir".into()));
    assert_eq!(row(&all, "batch-size"), ("16 MiB".into(), "LSVD_BATCH_SIZE".into()));
    assert_eq!(row(&all, "log-size"), ("2 GiB".into(), path.into()));
    assert_eq!(row(&all, "compression"), ("lz4".into(), "default".into()));
    assert_eq!(row(&all, "store"), (lab.store_url(), "LSVD_STORE".into()));
    let own = shown(&["db.img"]);
    assert_eq!(row(&own, "log-size"), ("3 GiB".into(), format!("{path} [volume.db.img]")));
    assert_eq!(row(&own, "compression"), ("none".into(), format!("{path} [volume.db.img]")));
    assert_eq!(row(&own, "snapshot-schedule").0, "hourly=24 daily=7");
    assert_eq!(row(&all, "snapshot-schedule"), ("none".into(), "default".into()));
    assert_eq!(row(&own, "log-memory"), ("64 MiB".into(), path.into()));
    assert_eq!(row(&own, "batch-size"), ("16 MiB".into(), "LSVD_BATCH_SIZE".into()));
}

#[test]
fn a_store_has_settings_of_its_own() {
    let lab = Lab::new();
    let file = lab.path().join("lsvd.toml");
    fs::write(
        &file,
        "store = \"mem:\"\n[s3]\nendpoint = \"http://file:1\"\nregion = \"from-file\"\nsecret-access-key = \"top secret\"\n",
    )
    .unwrap();
    let path = file.to_str().unwrap();
    let ran = lab
        .command()
        .env("LSVD_S3_REGION", "from-variable")
        .env("LSVD_S3_ACCESS_KEY_ID", "someone")
        .args(["--config", path, "--store", "s3://disks/vols", "--s3-path-style=no"])
        .args(["info", "--effective-config", "--s3-ca-file", "ca.pem", "--json"])
        .output()
        .unwrap();
    let text = Ran(ran).success();
    assert!(!text.contains("top secret"), "{text}");
    let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
    let row = |key: &str| -> (String, String) {
        let rows = shown["settings"].as_array().unwrap();
        let row = rows.iter().find(|row| row["key"] == key).unwrap();
        (row["value"].as_str().unwrap().to_owned(), row["source"].as_str().unwrap().to_owned())
    };
    assert_eq!(row("s3.endpoint"), ("http://file:1".into(), path.into()));
    assert_eq!(row("s3.region"), ("from-variable".into(), "LSVD_S3_REGION".into()));
    assert_eq!(row("s3.path-style"), ("false".into(), "--s3-path-style".into()));
    assert_eq!(row("s3.profile"), ("(not set)".into(), "default".into()));
    assert_eq!(row("s3.secret-access-key"), ("(set, not shown)".into(), path.into()));
    assert!(row("s3.ca-file").0.ends_with("/ca.pem") && row("s3.ca-file").0.starts_with('/'));
    // Those of another kind of store do not disturb.
    assert!(!text.contains("rados"), "{text}");
}

#[test]
fn a_bucket_that_cannot_be_reached_says_why() {
    let lab = Lab::new();
    let alone = |arguments: &[&str]| -> Ran {
        let mut command = lab.command();
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        Ran(command.args(arguments).arg("list").output().unwrap())
    };
    let store = ["--store", "s3://disks/vols"];
    let at = |endpoint: &'static str| [store[0], store[1], "--s3-endpoint", endpoint];
    alone(&store).failure(2, &["region", "s3.region"]);
    alone(&at("http://127.0.0.1:1")).failure(1, &["no credentials", "AWS_ACCESS_KEY_ID"]);
    alone(&at("127.0.0.1:1")).failure(2, &["http://host:port"]);
    alone(&["--store", "s3://Disks"]).failure(2, &["Disks", "bucket name"]);
    let bad = [&at("http://127.0.0.1:1")[..], &["--s3-path-style=perhaps"]].concat();
    alone(&bad).failure(2, &["--s3-path-style", "perhaps"]);
}

#[test]
fn mistakes_in_the_file_name_the_key_and_the_file() {
    let lab = Lab::new();
    let file = lab.path().join("bad.toml");
    let path = file.to_str().unwrap();
    for (text, part) in
        [("lgo-size = \"1G\"", "lgo-size"), ("log-size = \"huge\"", "log-size"), ("= 3", "line 1")]
    {
        fs::write(&file, text).unwrap();
        lab.run(&["--config", path, "list"]).failure(2, &[part, path]);
    }
    lab.run(&["--config", "/no/such/file.toml", "list"]).failure(1, &["/no/such/file.toml"]);
    let ran = Ran(lab.command().env("LSVD_LOG_SIZE", "x").arg("list").output().unwrap());
    ran.failure(2, &["LSVD_LOG_SIZE"]);
}

#[test]
fn a_mountpoint_that_cannot_be_used_is_refused_in_words() {
    let lab = Lab::new();
    let shown = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let missing = shown(&lab.path().join("missing"));
    lab.run(&["mount", &missing]).failure(1, &[&missing, "does not exist", "mkdir"]);
    let file = lab.path().join("file");
    fs::write(&file, "x").unwrap();
    lab.run(&["mount", &shown(&file)]).failure(1, &[&shown(&file), "not a directory"]);
    fs::write(lab.mountpoint().join("x"), "x").unwrap();
    lab.run(&["mount", &shown(&lab.mountpoint())])
        .failure(1, &[&shown(&lab.mountpoint()), "not empty"]);
    lab.run(&["mount", "/proc"]).failure(1, &["/proc", "busy"]);
    lab.run(&["unmount", &shown(&lab.path().join("mnt"))]).failure(1, &["nothing is mounted"]);
    lab.run(&["unmount", "/proc"]).failure(1, &["/proc", "not ours"]);
}
