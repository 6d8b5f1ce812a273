//! The secret of an I2P address: a destination, followed by its private keys. In memory as short as can be, on disk readable
//! by its owner alone.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::SamError;

/// A destination is this long, and as much longer as the two bytes before its end say.
const DESTINATION_BYTES: usize = 387;
/// Larger files are no keys.
const MAX_FILE_BYTES: u64 = 64 * 1024;

pub(super) struct PrivateKey(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<redacted>")
    }
}

/// I2P's Base64 has other characters at its end.
pub(super) fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>, SamError> {
    let swapped = Zeroizing::new(text.replace('-', "+").replace('~', "/"));
    BASE64.decode(swapped.as_bytes()).map(Zeroizing::new).map_err(|_| SamError::Base64)
}

impl PrivateKey {
    pub(super) fn from_base64(text: &str) -> Result<Self, SamError> {
        decode(text).map(Self)
    }

    pub(super) fn to_base64(&self) -> Zeroizing<String> {
        let standard = Zeroizing::new(BASE64.encode(&self.0));
        Zeroizing::new(standard.replace('+', "-").replace('/', "~"))
    }

    /// `None` if there is no file.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, SamError> {
        let failed = |error| SamError::KeyFile(path.display().to_string(), error);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(failed)?;
        Ok(Some(Self(bytes)))
    }

    /// Written in full before it has its name.
    pub(super) fn write(&self, path: &Path) -> Result<(), SamError> {
        let next = path.with_extension("new");
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
            file.write_all(&self.0)?;
            file.sync_all()?;
            std::fs::rename(&next, path)
        };
        write().map_err(|error| SamError::KeyFile(path.display().to_string(), error))
    }

    /// The public part.
    pub(super) fn destination(&self) -> Result<&[u8], SamError> {
        let length = self.0.get(DESTINATION_BYTES - 2..DESTINATION_BYTES);
        let [high, low] = *length.ok_or(SamError::ShortKey)? else { return Err(SamError::ShortKey) };
        let certificate = usize::from(u16::from_be_bytes([high, low]));
        self.0.get(..DESTINATION_BYTES + certificate).ok_or(SamError::ShortKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_as_long_as_its_certificate_says() {
        let mut bytes = vec![1; 500];
        bytes[385..387].copy_from_slice(&[0, 4]);
        let key = PrivateKey(Zeroizing::new(bytes.clone()));
        assert_eq!(key.destination().unwrap().len(), 391);
        bytes[385] = 1;
        assert!(PrivateKey(Zeroizing::new(bytes)).destination().is_err());
        assert!(PrivateKey(Zeroizing::new(vec![0; 386])).destination().is_err());
    }

    #[test]
    fn a_key_survives_its_text_and_its_file_and_is_not_printed() {
        let key = PrivateKey(Zeroizing::new(vec![0xfb, 0xff, 0xbf]));
        assert_eq!(*key.to_base64(), "-~-~");
        assert_eq!(*PrivateKey::from_base64("-~-~").unwrap().0, *key.0);
        assert_eq!(format!("{key:?}"), "<redacted>");
        let dir = std::env::temp_dir().join(format!("keyless-i2p-key-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("i2p_private_key");
        assert!(PrivateKey::read(&file).unwrap().is_none());
        key.write(&file).unwrap();
        assert_eq!(*PrivateKey::read(&file).unwrap().unwrap().0, *key.0);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
