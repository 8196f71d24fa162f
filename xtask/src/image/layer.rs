//! The one layer: a tar with one file, no clock, no user, no folder. Hashed while it is written.

use std::io::{self, Write};

use anyhow::{Context as _, Result};

use crate::digest::{Digest, Hasher};

const BLOCK_BYTES: usize = 512;

/// A tar with this file, owned by root and executable by all, and the tar's digest.
pub(super) fn one_file(name: &str, bytes: &[u8]) -> Result<(Vec<u8>, Digest)> {
    let mut writer = Hashing {
        hasher: Hasher::new(),
        bytes: Vec::with_capacity(bytes.len() + 4 * BLOCK_BYTES),
    };
    append(&mut tar::Builder::new(&mut writer), name, 0o555, bytes)
        .context("cannot assemble the layer")?;
    Ok((writer.bytes, writer.hasher.finish()))
}

/// Appends a file as of 1970, and ends the tar.
fn append(
    builder: &mut tar::Builder<impl Write>,
    name: &str,
    mode: u32,
    bytes: &[u8],
) -> io::Result<()> {
    append_file(builder, name, mode, bytes)?;
    builder.finish()
}

/// Appends a file of root as of 1970.
pub(super) fn append_file(
    builder: &mut tar::Builder<impl Write>,
    name: &str,
    mode: u32,
    bytes: &[u8],
) -> io::Result<()> {
    let mut header = header(tar::EntryType::Regular, mode);
    header.set_size(bytes.len() as u64);
    builder.append_data(&mut header, name, bytes)
}

/// Appends a folder of root as of 1970.
pub(super) fn append_folder(builder: &mut tar::Builder<impl Write>, name: &str) -> io::Result<()> {
    let mut header = header(tar::EntryType::Directory, 0o755);
    header.set_size(0);
    builder.append_data(&mut header, name, io::empty())
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

struct Hashing {
    hasher: Hasher,
    bytes: Vec<u8>,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
