//! Images: the bytes that engines read, the same on every day, and what cannot become one.

use std::collections::BTreeMap;
use std::io::Read as _;

use serde_json::{Value, json};
use xtask::digest::Digest;
use xtask::engine::Platform;
use xtask::image::{Assembled, Contents, Observed, ReadArchive, assemble};

const REFERENCE: &str = "localhost/datastorage:gateway-3f9a1c0b7d52e8f4";
const INTERPRETER: u32 = 3;
pub(crate) const LOADED: u32 = 1;

/// The smallest static executable: ends with 42. One segment of this type.
pub(crate) fn executable(machine: u16, kind: u16, segment: u32) -> Vec<u8> {
    let address = 0x40_0000_u64;
    // mov edi, 42; mov eax, 60; syscall
    let code = [0xbf, 42, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    let length = 64 + 56 + code.len() as u64;
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut put =
        |value: u64, length_bytes: usize| bytes.extend(&value.to_le_bytes()[..length_bytes]);
    for (value, length_bytes) in [
        (kind.into(), 2),
        (machine.into(), 2),
        (1, 4),
        (address + 64 + 56, 8),
        (64, 8),
        (0, 8),
        (0, 4),
        (64, 2),
        (56, 2),
        (1, 2),
        (0, 6),
        (segment.into(), 4),
        (5, 4),
        (0, 8),
        (address, 8),
        (address, 8),
        (length, 8),
        (length, 8),
        (4096, 8),
    ] {
        put(value, length_bytes);
    }
    bytes.extend(code);
    bytes
}

fn amd64() -> Platform {
    Platform {
        os: "linux".into(),
        architecture: "amd64".into(),
    }
}

fn contents<'a>(binary: &'a [u8], platform: &'a Platform) -> Contents<'a> {
    let label = |number: u32| (format!("phase-zero.label-{number}"), number.to_string());
    Contents {
        reference: REFERENCE,
        binary_name: "/datastorage",
        binary,
        platform,
        labels: (0..20).map(label).collect(),
    }
}

fn archive(image: &Assembled<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.write_archive(&mut bytes).unwrap();
    bytes
}

fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    tar::Archive::new(archive)
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(header.mtime().unwrap(), 0);
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (name, bytes)
        })
        .collect()
}

#[test]
fn equal_contents_are_equal_bytes() {
    let (binary, platform) = (executable(62, 2, LOADED), amd64());
    // Labels go through maps with a random order each: one pair could agree by chance.
    let images: Vec<_> = (0..8)
        .map(|_| archive(&assemble(&contents(&binary, &platform)).unwrap()))
        .collect();
    assert!(images.iter().all(|image| *image == images[0]));
}

#[test]
fn the_archive_names_its_blobs_by_their_digests_twice() {
    let (binary, platform) = (executable(62, 2, LOADED), amd64());
    let image = assemble(&contents(&binary, &platform)).unwrap();
    let files = files(&archive(&image));
    for (name, bytes) in &files {
        if let Some(digest) = name
            .strip_prefix("blobs/sha256/")
            .filter(|rest| !rest.is_empty())
        {
            assert_eq!(digest, Digest::of(bytes).to_string());
        }
    }
    let json = |name: &str| serde_json::from_slice::<Value>(&files[name]).unwrap();
    let blob = |digest: &Value| {
        let digest = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        &files[&format!("blobs/sha256/{digest}")]
    };
    assert_eq!(json("oci-layout")["imageLayoutVersion"], "1.0.0");

    let index = json("index.json");
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    let listed = &index["manifests"][0];
    assert_eq!(
        listed["annotations"]["org.opencontainers.image.ref.name"],
        REFERENCE
    );
    assert_eq!(listed["annotations"]["io.containerd.image.name"], REFERENCE);
    assert_eq!(listed["digest"], image.manifest_digest.oci());
    let manifest: Value = serde_json::from_slice(blob(&listed["digest"])).unwrap();
    assert_eq!(manifest["config"]["digest"], image.image_id.oci());
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);

    let docker = &json("manifest.json")[0];
    assert_eq!(docker["RepoTags"][0], REFERENCE);
    assert_eq!(docker["Config"], format!("blobs/sha256/{}", image.image_id));
    assert_eq!(
        docker["Layers"][0],
        format!("blobs/sha256/{}", image.layer_digest)
    );

    let config: Value = serde_json::from_slice(blob(&manifest["config"]["digest"])).unwrap();
    assert_eq!(config["architecture"], "amd64");
    for created in [&config["created"], &config["history"][0]["created"]] {
        assert_eq!(created, "1970-01-01T00:00:00Z");
    }
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(
        config["config"]["Entrypoint"],
        serde_json::json!(["/datastorage"])
    );
    assert_eq!(config["config"]["Labels"]["phase-zero.label-7"], "7");
    assert_eq!(config["rootfs"]["diff_ids"][0], image.layer_digest.oci());

    let layer = blob(&manifest["layers"][0]["digest"]);
    let in_layer = self::files(layer);
    assert_eq!(in_layer.keys().collect::<Vec<_>>(), ["datastorage"]);
    assert_eq!(in_layer["datastorage"], binary);
    let header = tar::Header::from_byte_slice(&layer[..512]);
    assert_eq!(header.mode().unwrap(), 0o555);
    let (owner, group) = (header.uid().unwrap(), header.gid().unwrap());
    assert_eq!((owner, group, header.mtime().unwrap()), (0, 0, 0));
}

#[test]
fn any_change_is_another_image() {
    let (binary, platform) = (executable(62, 2, LOADED), amd64());
    let first = assemble(&contents(&binary, &platform)).unwrap();
    let mut other_label = contents(&binary, &platform);
    other_label
        .labels
        .insert("phase-zero.target".into(), "gateway".into());
    let mut other_binary = binary.clone();
    other_binary.push(0);
    for other in [&other_label, &contents(&other_binary, &platform)] {
        assert_ne!(assemble(other).unwrap().image_id, first.image_id);
    }
}

/// The archive with files changed, added, or left out by an empty text.
fn changed(archive: &[u8], changes: &[(&str, &[u8])]) -> Vec<u8> {
    let mut files = files(archive);
    files.retain(|name, _| !name.ends_with('/'));
    files.extend(
        changes
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())),
    );
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn read_back(archive: Vec<u8>) -> anyhow::Result<String> {
    let archive = ReadArchive::new(archive)?;
    let (observed, names) = archive.observe()?;
    let layer = archive.blob(observed.layer_digest())?;
    let (image, _) = observed.with_layer(names.first().unwrap(), layer)?;
    assert_eq!(image.image_id, observed.image_id());
    Ok(observed.label("phase-zero.label-7").unwrap().to_owned())
}

#[test]
fn what_was_written_is_read_back_and_nothing_else() {
    let (binary, platform) = (executable(62, 2, LOADED), amd64());
    let image = assemble(&contents(&binary, &platform)).unwrap();
    let whole = archive(&image);
    assert_eq!(read_back(whole.clone()).unwrap(), "7");
    assert_eq!(read_back(changed(&whole, &[])).unwrap(), "7");
    // As skopeo writes it.
    let oci = changed(&whole, &[("manifest.json", b"")]);
    assert!(ReadArchive::new(oci).unwrap().observe().is_ok());

    let blob = |digest: Digest| format!("blobs/sha256/{digest}");
    let (config, layer) = (blob(image.image_id), blob(image.layer_digest));
    let twice = [&whole[..whole.len() - 1024], &whole].concat();
    let of_another: &[u8] = br#"[{"Config": "a", "Layers": []}]"#;
    for (bytes, words) in [
        (
            changed(&whole, &[("index.json", b"")]),
            "it has no index.json",
        ),
        (
            changed(&whole, &[("index.json", b"{}")]),
            "index.json cannot be read",
        ),
        (
            changed(&whole, &[("manifest.json", b"[]")]),
            "not about one image",
        ),
        (
            changed(&whole, &[("manifest.json", of_another)]),
            "are about two images",
        ),
        (changed(&whole, &[(&config, b"{}")]), "under the name of"),
        (changed(&whole, &[(&layer, b"x")]), "under the name of"),
        (changed(&whole, &[(&layer, b"")]), "it has no blobs/sha256/"),
        (twice, "twice"),
        (whole[..whole.len() / 2].to_vec(), "it"),
        (b"no tar at all".to_vec(), "it"),
    ] {
        let error = format!("{:#}", read_back(bytes).unwrap_err());
        assert!(error.contains(words), "`{words}` is not in: {error}");
    }
}

/// The documents of an image, changed; its config keeps the digest that the manifest names, unless
/// the manifest is changed there.
#[track_caller]
fn check_other_make(change: &dyn Fn(&mut Value, &mut Value), words: &str) {
    let (binary, platform) = (executable(62, 2, LOADED), amd64());
    let image = assemble(&contents(&binary, &platform)).unwrap();
    let files = files(&archive(&image));
    let blob = |digest: Digest| &files[&format!("blobs/sha256/{digest}")];
    let document = |digest: Digest| serde_json::from_slice::<Value>(blob(digest)).unwrap();
    let (mut manifest, mut config) = (document(image.manifest_digest), document(image.image_id));
    change(&mut manifest, &mut config);
    let config = config.to_string();
    if manifest["config"]["size"] != 1 {
        manifest["config"]["digest"] = Digest::of(config.as_bytes()).oci().into();
        manifest["config"]["size"] = config.len().into();
    }
    let error = Observed::new(manifest.to_string().as_bytes(), config.as_bytes())
        .and_then(|image_there| {
            image_there
                .with_layer(REFERENCE, blob(image.layer_digest))
                .map(drop)
        })
        .unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains(words), "`{words}` is not in: {error}");
}

#[test]
fn an_image_of_another_make_is_refused() {
    let check = check_other_make;
    check(
        &|manifest, _| manifest["config"]["size"] = 1.into(),
        "its config is sha256:",
    );
    let kind = "application/vnd.oci.image.index.v1+json";
    check(
        &|manifest, _| manifest["mediaType"] = kind.into(),
        "of another kind",
    );
    let twice = |manifest: &mut Value, _: &mut Value| {
        let layer = manifest["layers"][0].clone();
        manifest["layers"].as_array_mut().unwrap().push(layer);
    };
    check(&twice, "it has 2 layers");
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    check(
        &|manifest, _| manifest["layers"][0]["mediaType"] = kind.into(),
        "its layer is packed",
    );
    let other = Digest::of(b"other").oci();
    check(
        &|_, config| config["rootfs"]["diff_ids"][0] = other.as_str().into(),
        "about another layer",
    );
    let other_layer = |manifest: &mut Value, config: &mut Value| {
        manifest["layers"][0]["digest"] = other.as_str().into();
        config["rootfs"]["diff_ids"][0] = other.as_str().into();
    };
    check(&other_layer, "its layer is sha256:");
    let entrypoint = |words: Value| {
        move |_: &mut Value, config: &mut Value| config["config"]["Entrypoint"] = words.clone()
    };
    check(&entrypoint(json!(["/other"])), "its entrypoint is `/other`");
    check(&entrypoint(json!(["/a", "b"])), "is not one file");
    let not_ours = "its config is not as this tool writes one";
    check(
        &|_, config| config["config"]["User"] = "0:0".into(),
        not_ours,
    );
    check(
        &|_, config| config["config"]["Env"] = json!(["A=b"]),
        not_ours,
    );
    check(
        &|_, config| config["architecture"] = "arm64".into(),
        "ELF machine 62",
    );
}

#[track_caller]
fn check_refused(binary: &[u8], platform: &Platform, reference: &str, expected: &str) {
    let contents = Contents {
        reference,
        ..contents(binary, platform)
    };
    let error = format!("{:#}", assemble(&contents).unwrap_err());
    assert!(error.contains(expected), "{error}");
}

#[test]
fn what_would_not_run_is_refused() {
    let check =
        |binary: &[u8], expected: &str| check_refused(binary, &amd64(), REFERENCE, expected);
    check(b"#!/bin/sh\n", "not an ELF file");
    check(b"\x7fELF\x01\x01", "64-bit");
    check(&executable(183, 2, LOADED), "ELF machine 183");
    check(&executable(62, 1, LOADED), "not an executable");
    check(&executable(62, 2, INTERPRETER), "linked dynamically");
    check(&executable(62, 2, LOADED)[..66], "ends within its headers");
}

#[test]
fn a_name_that_no_pod_can_use_is_refused() {
    let binary = executable(62, 2, LOADED);
    for reference in [
        "datastorage:gateway-3f9a",
        "localhost/datastorage",
        "localhost:5000",
        "localhost/:tag",
        "localhost/Data:tag",
        "localhost/data:",
        "localhost/a:b:c",
    ] {
        check_refused(&binary, &amd64(), reference, "not a full image reference");
    }
    let platform = amd64();
    let registry = Contents {
        reference: "10.0.0.1:5000/team/datastorage:gateway-3f9a",
        ..contents(&binary, &platform)
    };
    assemble(&registry).unwrap();
}
