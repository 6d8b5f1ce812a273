//! The node's identity as a co-signer: one ed25519 key.
//!
//! Owns the identity file (32 bytes of seed, mode 0600, in a directory of mode 0700) and the
//! conversions between public key, libp2p PeerId and the short fingerprint that people compare
//! aloud. Refuses a file that others can read or that has another length: it never makes a new
//! identity where there was one.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use bitcoin::hashes::{Hash as _, HashEngine as _, sha256};
use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey, ed25519};
use rand::RngCore as _;
use zeroize::Zeroizing;

/// Multihash code of the identity function, which embeds the key itself.
const IDENTITY_MULTIHASH: u64 = 0;
const FINGERPRINT_TAG: &[u8] = b"keyless/fingerprint";

/// Why the identity file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot use the co-signer identity {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the co-signer identity {} has {length} bytes instead of 32; restore it from a backup", path.display())]
    Corrupt { path: PathBuf, length: u64 },
    #[error("the co-signer identity {} can be read by others (mode {mode:04o}); run: chmod 600", path.display())]
    Exposed { path: PathBuf, mode: u32 },
}

/// The secret seed and what follows from it. `Debug` shows the PeerId alone.
#[derive(Clone)]
pub struct Identity {
    seed: Zeroizing<[u8; 32]>,
    keypair: Keypair,
    public_key: [u8; 32],
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("peer_id", &self.peer_id()).finish_non_exhaustive()
    }
}

impl Identity {
    /// The identity that a seed stands for.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        let mut copy = *seed;
        // Any 32 bytes are an ed25519 seed: the conversion cannot fail, and zeroes its input.
        let secret = ed25519::SecretKey::try_from_bytes(&mut copy).expect("32 bytes are a valid ed25519 seed");
        let ed = ed25519::Keypair::from(secret);
        let public_key = ed.public().to_bytes();
        Self { seed, keypair: Keypair::from(ed), public_key }
    }

    /// A fresh identity that is stored nowhere (embedded co-signers and tests).
    pub fn generate() -> Self {
        let mut seed = Zeroizing::new([0u8; 32]);
        rand::rngs::OsRng.fill_bytes(seed.as_mut());
        Self::from_seed(*seed)
    }

    /// Reads the identity file, or makes it, durably, if there is none.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        match Self::load(path) {
            Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let io_error = |source| IdentityError::Io { path: path.to_owned(), source };
        let fresh = Self::generate();
        match write_new(path, fresh.seed()) {
            // Another process was faster: its identity is the node's.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            Err(error) => Err(io_error(error)),
            Ok(()) => Ok(fresh),
        }
    }

    fn load(path: &Path) -> Result<Self, IdentityError> {
        let io_error = |source| IdentityError::Io { path: path.to_owned(), source };
        let mut file = fs::File::open(path).map_err(io_error)?;
        let metadata = file.metadata().map_err(io_error)?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Exposed { path: path.to_owned(), mode });
        }
        if metadata.len() != 32 {
            return Err(IdentityError::Corrupt { path: path.to_owned(), length: metadata.len() });
        }
        let mut seed = Zeroizing::new([0u8; 32]);
        file.read_exact(seed.as_mut()).map_err(io_error)?;
        Ok(Self::from_seed(*seed))
    }

    /// This node's name on the co-signer network (`12D3KooW...`).
    pub fn peer_id(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }

    /// The ed25519 public key: `tss_wallet::MemberId`.
    pub fn public_key(&self) -> [u8; 32] {
        self.public_key
    }

    /// The secret seed, for the envelope signer of tss-wallet.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    pub(crate) fn keypair(&self) -> &Keypair {
        &self.keypair
    }
}

/// Writes a new file that is complete or absent, and never replaces one.
fn write_new(path: &Path, seed: &[u8; 32]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    if !parent.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    fs::set_permissions(parent, Permissions::from_mode(0o700))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(seed)?;
        file.sync_all()?;
        // A hard link fails where a rename would replace another process's identity.
        fs::hard_link(&temporary, path)
    })();
    let removed = fs::remove_file(&temporary);
    written?;
    removed?;
    fs::File::open(parent)?.sync_all()
}

/// The PeerId of an ed25519 public key. Bytes that are no point on the curve get a PeerId too:
/// nobody can ever answer under it.
pub fn peer_id_of(public_key: [u8; 32]) -> PeerId {
    match ed25519::PublicKey::try_from_bytes(&public_key) {
        Ok(key) => PeerId::from_public_key(&PublicKey::from(key)),
        Err(_) => {
            let mut encoded = Vec::with_capacity(38);
            encoded.extend_from_slice(&[0x00, 0x24, 0x08, 0x01, 0x12, 0x20]);
            encoded.extend_from_slice(&public_key);
            PeerId::from_bytes(&encoded).expect("an identity multihash of 36 bytes is a PeerId")
        }
    }
}

/// The ed25519 public key inside a PeerId; none for hashed or other kinds of keys.
pub fn public_key_of(peer: &PeerId) -> Option<[u8; 32]> {
    let multihash = peer.as_ref();
    if multihash.code() != IDENTITY_MULTIHASH {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(multihash.digest()).ok()?;
    Some(key.try_into_ed25519().ok()?.to_bytes())
}

/// Four groups of four hex digits, to be compared aloud.
pub fn fingerprint(public_key: [u8; 32]) -> String {
    let mut engine = sha256::Hash::engine();
    engine.input(FINGERPRINT_TAG);
    engine.input(&public_key);
    let hash = sha256::Hash::from_engine(engine).to_byte_array();
    let groups: Vec<String> =
        hash.chunks_exact(2).take(4).map(|pair| format!("{:02x}{:02x}", pair[0], pair[1])).collect();
    groups.join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    fn fresh_dir() -> PathBuf {
        let mut name = [0u8; 8];
        rand::thread_rng().fill_bytes(&mut name);
        std::env::temp_dir().join(format!("keyless-identity-{:016x}", u64::from_le_bytes(name)))
    }

    #[test]
    fn identity_is_made_once_and_found_again() {
        let dir = fresh_dir();
        let path = dir.join("keyless/identity");
        let first = Identity::load_or_create(&path).unwrap();
        let second = Identity::load_or_create(&path).unwrap();
        assert_eq!(first.peer_id(), second.peer_id());
        assert_eq!(first.seed(), second.seed());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn exposed_or_damaged_identity_is_refused_and_kept() {
        let dir = fresh_dir();
        let path = dir.join("identity");
        Identity::load_or_create(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Identity::load_or_create(&path), Err(IdentityError::Exposed { mode: 0o644, .. })));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, [7; 31]).unwrap();
        assert!(matches!(Identity::load_or_create(&path), Err(IdentityError::Corrupt { length: 31, .. })));
        assert_eq!(fs::read(&path).unwrap(), [7; 31]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn peer_id_and_public_key_convert_both_ways() {
        let identity = Identity::generate();
        assert_eq!(peer_id_of(identity.public_key()), identity.peer_id());
        assert_eq!(public_key_of(&identity.peer_id()), Some(identity.public_key()));
        assert!(identity.peer_id().to_string().starts_with("12D3KooW"));
        // y = 2 is no point on the curve.
        let mut off_curve = [0u8; 32];
        off_curve[0] = 2;
        assert!(peer_id_of(off_curve).to_string().starts_with("12D3KooW"));
    }

    #[test]
    fn fingerprint_is_four_groups_of_four_hex_digits() {
        let text = fingerprint(Identity::from_seed([1; 32]).public_key());
        assert_eq!(text.len(), 19);
        assert!(text.split(' ').all(|group| group.len() == 4 && group.chars().all(|c| c.is_ascii_hexdigit())));
        assert_ne!(text, fingerprint(Identity::from_seed([2; 32]).public_key()));
    }

    #[test]
    fn debug_shows_no_secret() {
        let identity = Identity::from_seed([0xab; 32]);
        assert!(!format!("{identity:?}").contains("171"));
        assert!(!format!("{identity:?}").to_lowercase().contains("abab"));
    }
}
