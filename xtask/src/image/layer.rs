//! The one layer: a tar with one file, no clock, no user, no folder. Its bytes stay where they are:
//! a layer is what comes before the file, the file, and what comes after it.

use std::io::{self, Write};

use crate::digest::{Digest, Hasher};

const BLOCK_BYTES: usize = 512;
/// Two empty blocks end a tar.
const END: [u8; 2 * BLOCK_BYTES] = [0; 2 * BLOCK_BYTES];
const PADDING: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// A tar with one file.
#[derive(Clone, Debug)]
pub(crate) struct Layer<'a> {
    header: tar::Header,
    file: &'a [u8],
}

impl<'a> Layer<'a> {
    /// A tar with this file, owned by root and executable by all.
    ///
    /// # Errors
    /// When a tar cannot hold the name.
    pub(super) fn one_file(name: &str, file: &'a [u8]) -> io::Result<Self> {
        let header = file_header(name, 0o555, file.len())?;
        Ok(Self { header, file })
    }

    /// Its bytes, one piece after the other.
    pub(super) fn pieces(&self) -> [&[u8]; 4] {
        [
            self.header.as_bytes(),
            self.file,
            padding(self.file.len()),
            &END,
        ]
    }

    pub(super) fn length_bytes(&self) -> usize {
        self.pieces().iter().map(|piece| piece.len()).sum()
    }

    /// Of all its bytes.
    pub(super) fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        self.pieces().iter().for_each(|piece| hasher.update(piece));
        hasher.finish()
    }
}

/// Writes a tar's entry for a file, given in pieces.
pub(super) fn write_file(
    writer: &mut impl Write,
    name: &str,
    mode: u32,
    pieces: &[&[u8]],
) -> io::Result<()> {
    let length_bytes = pieces.iter().map(|piece| piece.len()).sum();
    writer.write_all(file_header(name, mode, length_bytes)?.as_bytes())?;
    pieces
        .iter()
        .try_for_each(|piece| writer.write_all(piece))?;
    writer.write_all(padding(length_bytes))
}

/// Writes a tar's entry for a folder.
pub(super) fn write_folder(writer: &mut impl Write, name: &str) -> io::Result<()> {
    let mut header = header(tar::EntryType::Directory, 0o755, 0);
    header.set_path(name)?;
    header.set_cksum();
    writer.write_all(header.as_bytes())
}

/// Ends a tar.
pub(super) fn write_end(writer: &mut impl Write) -> io::Result<()> {
    writer.write_all(&END)
}

fn file_header(name: &str, mode: u32, length_bytes: usize) -> io::Result<tar::Header> {
    let mut header = header(tar::EntryType::Regular, mode, length_bytes);
    header.set_path(name)?;
    header.set_cksum();
    Ok(header)
}

/// Of root, as of 1970.
fn header(kind: tar::EntryType, mode: u32, length_bytes: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(length_bytes as u64);
    header
}

/// What fills the last block of a file.
fn padding(length_bytes: usize) -> &'static [u8] {
    &PADDING[..length_bytes.next_multiple_of(BLOCK_BYTES) - length_bytes]
}
