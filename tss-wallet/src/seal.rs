//! Sealing of secrets at rest: XChaCha20-Poly1305 under a key file of the node or under a passphrase (argon2id).
//!
//! A sealed blob names its format, how its key is made, and its nonce; all of that, and the wallet, member and kind of
//! secret it belongs to, are authenticated with it: a blob moved to another place does not open. The key file protects
//! against a thief of the database alone, not of the whole disk; the passphrase also against that one.
//! Source: RFC 9106 (argon2id), draft-irtf-cfrg-xchacha.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::ids::{MemberId, WalletId, tagged_hash};

const MAGIC: &[u8; 4] = b"KLS1";
const NONCE_BYTES: usize = 24;
const SALT_BYTES: usize = 16;
const HEADER_BYTES: usize = 4 + 1 + 12 + SALT_BYTES + NONCE_BYTES;
const TAG_BYTES: usize = 16;

/// The most memory a stored header may ask argon2 for, in KiB: a changed header must not exhaust the machine.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MAX_PASSES: u32 = 64;
const MAX_LANES: u32 = 16;

/// Why a secret could not be sealed or opened.
#[derive(Debug, Error)]
pub enum SealError {
    /// Wrong key or passphrase, changed bytes, or a blob of another wallet, member or kind: they look alike.
    #[error("the sealed data does not open with this key")]
    Refused,
    /// Not a sealed blob of this version.
    #[error("not sealed data of a known version")]
    Format,
    /// The blob is sealed by a passphrase and a key file was given, or the other way round.
    #[error("the data is sealed by {0}")]
    OtherProtection(&'static str),
    /// Cost parameters that argon2 refuses, or that no sealed blob of ours has.
    #[error("the passphrase cost parameters are out of range")]
    Parameters,
    /// The key file is readable by others, or is not a key.
    #[error("the key file {path} {what}")]
    KeyFile {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// The key file could not be read or made.
    #[error("the key file {path}: {error}")]
    Io {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// The cost of one guess at a passphrase, and its salt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KdfParams {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
    /// Random for each passphrase.
    pub salt: [u8; SALT_BYTES],
}

impl KdfParams {
    /// 64 MiB, 3 passes, one lane: about 0.1 s; RFC 9106's second recommendation with less parallelism.
    #[must_use]
    pub const fn recommended(salt: [u8; SALT_BYTES]) -> Self {
        Self { memory_kib: 64 * 1024, passes: 3, lanes: 1, salt }
    }
}

/// How the key of a blob is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// From a file with 32 random bytes.
    KeyFile,
    /// From a passphrase.
    Passphrase(KdfParams),
}

/// A 32-byte sealing key with what it was made from. Zeroized on drop, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SealKey {
    key: [u8; 32],
    #[zeroize(skip)]
    protection: Protection,
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey(<redacted>, {:?})", self.protection)
    }
}

impl SealKey {
    /// Reads the key file, or makes it (mode 0600, synced) from 32 random bytes when there is none.
    ///
    /// # Errors
    /// Fails when the file is not exactly a key, or others can read it.
    pub fn load_or_create(path: &Path, random: &[u8; 32]) -> Result<Self, SealError> {
        let failed = |error| SealError::Io { path: path.to_owned(), error };
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(mut file) => {
                file.write_all(random).and_then(|()| file.sync_all()).map_err(failed)?;
                if let Some(parent) = path.parent() {
                    fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed)?;
                }
                Ok(Self { key: *random, protection: Protection::KeyFile })
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            Err(error) => Err(failed(error)),
        }
    }

    /// Reads the key file.
    ///
    /// # Errors
    /// As [`Self::load_or_create`], and when there is none.
    pub fn load(path: &Path) -> Result<Self, SealError> {
        let failed = |error| SealError::Io { path: path.to_owned(), error };
        let refused = |what| SealError::KeyFile { path: path.to_owned(), what };
        let mut file = fs::File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
            return Err(refused("can be read by others"));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(33));
        Read::by_ref(&mut file).take(33).read_to_end(&mut bytes).map_err(failed)?;
        let key = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| refused("is not 32 bytes long"))?;
        Ok(Self { key, protection: Protection::KeyFile })
    }

    /// Derives the key of a passphrase. Takes its time by design: run it on a blocking thread.
    ///
    /// # Errors
    /// Fails for parameters out of range.
    pub fn from_passphrase(passphrase: &[u8], params: KdfParams) -> Result<Self, SealError> {
        let KdfParams { memory_kib, passes, lanes, salt } = params;
        if memory_kib > MAX_MEMORY_KIB || passes > MAX_PASSES || lanes > MAX_LANES {
            return Err(SealError::Parameters);
        }
        let cost = argon2::Params::new(memory_kib, passes, lanes, Some(32)).map_err(|_| SealError::Parameters)?;
        let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, cost);
        let mut key = Zeroizing::new([0; 32]);
        argon.hash_password_into(passphrase, &salt, key.as_mut()).map_err(|_| SealError::Parameters)?;
        Ok(Self { key: *key, protection: Protection::Passphrase(params) })
    }

    /// How the key was made.
    #[must_use]
    pub fn protection(&self) -> &Protection {
        &self.protection
    }
}

/// What a blob belongs to.
#[derive(Debug, Clone, Copy)]
pub struct SealContext<'a> {
    /// The wallet.
    pub wallet: &'a WalletId,
    /// The member whose secret it is.
    pub member: &'a MemberId,
    /// What kind of secret, and its version or epoch.
    pub kind: &'a str,
}

fn associated_data(header: &[u8], context: &SealContext<'_>) -> [u8; 32] {
    let parts: [&[u8]; 4] = [header, context.wallet.as_bytes(), context.member.as_bytes(), context.kind.as_bytes()];
    tagged_hash("keyless/seal/v1", &parts)
}

fn header(protection: &Protection, nonce: &[u8; NONCE_BYTES]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    let (flag, params) = match protection {
        Protection::KeyFile => (0, KdfParams { memory_kib: 0, passes: 0, lanes: 0, salt: [0; SALT_BYTES] }),
        Protection::Passphrase(params) => (1, *params),
    };
    bytes.push(flag);
    for cost in [params.memory_kib, params.passes, params.lanes] {
        bytes.extend_from_slice(&cost.to_be_bytes());
    }
    bytes.extend_from_slice(&params.salt);
    bytes.extend_from_slice(nonce);
    bytes
}

/// How the key of a sealed blob is made, to ask for a passphrase with the right salt.
///
/// # Errors
/// Fails for bytes that are no sealed blob.
pub fn protection_of(sealed: &[u8]) -> Result<Protection, SealError> {
    if sealed.len() < HEADER_BYTES + TAG_BYTES || !sealed.starts_with(MAGIC) {
        return Err(SealError::Format);
    }
    let cost = |at: usize| -> Result<u32, SealError> {
        let bytes = sealed.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).ok_or(SealError::Format)?;
        Ok(u32::from_be_bytes(bytes))
    };
    match sealed[4] {
        0 => Ok(Protection::KeyFile),
        1 => {
            let salt = sealed[17..17 + SALT_BYTES].try_into().map_err(|_| SealError::Format)?;
            Ok(Protection::Passphrase(KdfParams { memory_kib: cost(5)?, passes: cost(9)?, lanes: cost(13)?, salt }))
        }
        _ => Err(SealError::Format),
    }
}

/// Seals a secret. The nonce must be random and new.
///
/// # Errors
/// Fails only for a secret that is too large for the cipher.
pub fn seal(
    key: &SealKey,
    context: &SealContext<'_>,
    secret: &[u8],
    nonce: &[u8; NONCE_BYTES],
) -> Result<Vec<u8>, SealError> {
    let mut sealed = header(&key.protection, nonce);
    let aad = associated_data(&sealed, context);
    let cipher = XChaCha20Poly1305::new((&key.key).into());
    let text = cipher
        .encrypt(XNonce::from_slice(nonce), Payload { msg: secret, aad: &aad })
        .map_err(|_| SealError::Refused)?;
    sealed.extend_from_slice(&text);
    Ok(sealed)
}

/// Opens a sealed secret.
///
/// # Errors
/// Fails for another key, another context, and any changed bit.
pub fn open(key: &SealKey, context: &SealContext<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    match (protection_of(sealed)?, key.protection) {
        (Protection::KeyFile, Protection::Passphrase(_)) => return Err(SealError::OtherProtection("a key file")),
        (Protection::Passphrase(_), Protection::KeyFile) => return Err(SealError::OtherProtection("a passphrase")),
        _ => {}
    }
    let (header, text) = sealed.split_at(HEADER_BYTES);
    let nonce = &header[HEADER_BYTES - NONCE_BYTES..];
    let aad = associated_data(header, context);
    let cipher = XChaCha20Poly1305::new((&key.key).into());
    let secret =
        cipher.decrypt(XNonce::from_slice(nonce), Payload { msg: text, aad: &aad }).map_err(|_| SealError::Refused)?;
    Ok(Zeroizing::new(secret))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    const WALLET: WalletId = WalletId([1; 32]);
    const MEMBER: MemberId = MemberId([2; 32]);
    const CONTEXT: SealContext<'static> = SealContext { wallet: &WALLET, member: &MEMBER, kind: "share" };

    fn file_key() -> SealKey {
        SealKey { key: [3; 32], protection: Protection::KeyFile }
    }

    #[test]
    fn a_sealed_secret_opens_with_its_key_and_in_its_place() {
        let sealed = seal(&file_key(), &CONTEXT, b"the secret", &[4; 24]).unwrap();
        assert_eq!(open(&file_key(), &CONTEXT, &sealed).unwrap().as_slice(), b"the secret");
        let other_key = SealKey { key: [9; 32], protection: Protection::KeyFile };
        assert!(open(&other_key, &CONTEXT, &sealed).is_err());
        assert!(open(&file_key(), &SealContext { wallet: &WalletId([9; 32]), ..CONTEXT }, &sealed).is_err());
        assert!(open(&file_key(), &SealContext { member: &MemberId([9; 32]), ..CONTEXT }, &sealed).is_err());
        assert!(open(&file_key(), &SealContext { kind: "pending", ..CONTEXT }, &sealed).is_err());
    }

    #[test]
    fn every_bit_of_a_sealed_secret_counts() {
        let sealed = seal(&file_key(), &CONTEXT, b"the secret", &[4; 24]).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&file_key(), &CONTEXT, &flipped).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(open(&file_key(), &CONTEXT, &sealed[..length]).is_err());
        }
    }

    #[test]
    fn a_passphrase_opens_what_it_sealed_and_a_key_file_says_so() {
        let params = KdfParams { memory_kib: 64, passes: 1, lanes: 1, salt: [5; 16] };
        let key = SealKey::from_passphrase(b"correct horse", params).unwrap();
        let sealed = seal(&key, &CONTEXT, b"the secret", &[6; 24]).unwrap();
        let Protection::Passphrase(stored) = protection_of(&sealed).unwrap() else { panic!("a passphrase") };
        assert_eq!(stored, params);
        let again = SealKey::from_passphrase(b"correct horse", stored).unwrap();
        assert_eq!(open(&again, &CONTEXT, &sealed).unwrap().as_slice(), b"the secret");
        let wrong = SealKey::from_passphrase(b"battery staple", stored).unwrap();
        assert!(matches!(open(&wrong, &CONTEXT, &sealed), Err(SealError::Refused)));
        assert!(matches!(open(&file_key(), &CONTEXT, &sealed), Err(SealError::OtherProtection("a passphrase"))));
    }

    #[test]
    fn a_header_cannot_ask_for_all_memory() {
        let params = KdfParams { memory_kib: u32::MAX, passes: 1, lanes: 1, salt: [5; 16] };
        assert!(matches!(SealKey::from_passphrase(b"x", params), Err(SealError::Parameters)));
    }

    #[test]
    fn a_key_file_is_made_once_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seal.key");
        let made = SealKey::load_or_create(&path, &[7; 32]).unwrap();
        let read = SealKey::load_or_create(&path, &[8; 32]).unwrap();
        assert_eq!(made.key, read.key);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let sealed = seal(&made, &CONTEXT, b"s", &[0; 24]).unwrap();
        assert!(open(&read, &CONTEXT, &sealed).is_ok());
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(SealKey::load(&path), Err(SealError::KeyFile { .. })));
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(&path, b"short").unwrap();
        assert!(matches!(SealKey::load(&path), Err(SealError::KeyFile { .. })));
    }

    #[test]
    fn debug_output_holds_no_key() {
        assert!(format!("{:?}", file_key()).contains("<redacted>"));
    }
}
