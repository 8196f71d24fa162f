//! An image of one program that ends with 0 and does nothing else: a container of it shows that
//! the engine starts containers, with nothing to be fetched.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::Platform;
use crate::image::{self, Assembled, Contents};

/// What the image is called.
pub(super) const REFERENCE: &str = "localhost/phase-zero-probe:1";

/// `exit(0)` for x86_64: xor edi, edi; mov eax, 60; syscall.
const EXIT_AMD64: &[u8] = &[0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
/// `exit(0)` for aarch64: mov x0, #0; mov x8, #93; svc #0.
const EXIT_ARM64: &[u8] = &[
    0x00, 0x00, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4,
];

const LOAD_ADDRESS: u64 = 0x40_0000;
const ELF_HEADER_BYTES: u16 = 64;
const PROGRAM_HEADER_BYTES: u16 = 56;

/// Assembles it from its [`executable()`].
pub(super) fn assemble<'a>(platform: &'a Platform, binary: &'a [u8]) -> Result<Assembled<'a>> {
    image::assemble(&Contents {
        reference: REFERENCE,
        binary_name: "/probe",
        binary,
        platform,
        labels: BTreeMap::new(),
    })
}

/// The smallest static executable that ends with 0.
///
/// # Errors
/// On a platform whose machine code is not known here.
pub(crate) fn executable(platform: &Platform) -> Result<Vec<u8>> {
    let (machine, code): (u16, &[u8]) = match platform.architecture.as_str() {
        "amd64" => (62, EXIT_AMD64),
        "arm64" => (183, EXIT_ARM64),
        other => bail!("no probe is known for {other}"),
    };
    let headers = u64::from(ELF_HEADER_BYTES + PROGRAM_HEADER_BYTES);
    let length = headers + code.len() as u64;
    let mut elf = Vec::new();
    // 64 bits, little-endian, version 1, System V.
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let half = |elf: &mut Vec<u8>, value: u16| elf.extend_from_slice(&value.to_le_bytes());
    let word = |elf: &mut Vec<u8>, value: u32| elf.extend_from_slice(&value.to_le_bytes());
    let long = |elf: &mut Vec<u8>, value: u64| elf.extend_from_slice(&value.to_le_bytes());
    // An executable file for this machine, version 1.
    half(&mut elf, 2);
    half(&mut elf, machine);
    word(&mut elf, 1);
    // Entry point, program headers, no section headers, no flags.
    long(&mut elf, LOAD_ADDRESS + headers);
    long(&mut elf, u64::from(ELF_HEADER_BYTES));
    long(&mut elf, 0);
    word(&mut elf, 0);
    for value in [ELF_HEADER_BYTES, PROGRAM_HEADER_BYTES, 1, 0, 0, 0] {
        half(&mut elf, value);
    }
    // One segment to be loaded, readable and executable: the whole file.
    word(&mut elf, 1);
    word(&mut elf, 5);
    for value in [0, LOAD_ADDRESS, LOAD_ADDRESS, length, length, 0x1_0000] {
        long(&mut elf, value);
    }
    elf.extend_from_slice(code);
    Ok(elf)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::{Platform, executable};
    use crate::process::{Invocation, capture};

    #[test]
    fn the_probe_ends_with_0() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("probe");
        fs::write(&path, executable(&Platform::host().unwrap()).unwrap()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        // A copy made by another process: a child that another test starts at this moment cannot
        // hold it open for writing.
        let copy = folder.path().join("copy");
        let deadline = Duration::from_secs(10);
        let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        capture(
            &Invocation::new("cp")
                .arg("-p")
                .arg(text(&path))
                .arg(text(&copy)),
            deadline,
        )
        .unwrap();
        capture(&Invocation::new(text(&copy)), deadline).unwrap();
    }
}
