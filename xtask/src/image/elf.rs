//! Whether a binary runs in an empty image: an ELF executable for the platform that asks for no
//! interpreter. Reads the headers; refuses what it does not know.

use anyhow::{Context as _, Result, bail, ensure};

use crate::engine::Platform;

const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const TYPE_EXECUTABLE: u16 = 2;
const TYPE_POSITION_INDEPENDENT: u16 = 3;
const SEGMENT_INTERPRETER: u32 = 3;

/// Refuses everything but a static executable for `platform`.
pub(super) fn check(binary: &[u8], platform: &Platform) -> Result<()> {
    ensure!(
        binary.starts_with(b"\x7fELF"),
        "the binary is not an ELF file"
    );
    ensure!(
        binary.get(4) == Some(&CLASS_64) && binary.get(5) == Some(&LITTLE_ENDIAN),
        "the binary is not for a 64-bit little-endian machine"
    );
    let machine = match platform.architecture.as_str() {
        "amd64" => 62,
        "arm64" => 183,
        other => bail!("no ELF machine is known for the architecture {other}"),
    };
    let found = u16::from_le_bytes(at(binary, 18)?);
    ensure!(
        found == machine,
        "the binary is for ELF machine {found}, not {machine} ({platform})"
    );
    let kind = u16::from_le_bytes(at(binary, 16)?);
    let entry = u64::from_le_bytes(at(binary, 24)?);
    ensure!(
        matches!(kind, TYPE_EXECUTABLE | TYPE_POSITION_INDEPENDENT) && entry != 0,
        "the binary is not an executable (ELF type {kind})"
    );
    ensure!(
        !segments(binary)?.contains(&SEGMENT_INTERPRETER),
        "the binary is linked dynamically: it asks for an interpreter that the image does not have"
    );
    Ok(())
}

fn segments(binary: &[u8]) -> Result<Vec<u32>> {
    let table = usize::try_from(u64::from_le_bytes(at(binary, 32)?))?;
    let entry_bytes = usize::from(u16::from_le_bytes(at(binary, 54)?));
    let count = usize::from(u16::from_le_bytes(at(binary, 56)?));
    (0..count)
        .map(|index| {
            let offset = table
                .checked_add(index * entry_bytes)
                .context("the binary's segment table overflows")?;
            Ok(u32::from_le_bytes(at(binary, offset)?))
        })
        .collect()
}

fn at<const N: usize>(binary: &[u8], offset: usize) -> Result<[u8; N]> {
    let end = offset
        .checked_add(N)
        .context("the binary's headers overflow")?;
    let bytes = binary
        .get(offset..end)
        .context("the binary ends within its headers")?;
    Ok(bytes.try_into()?)
}
