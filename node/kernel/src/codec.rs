//! Reading the shim's answers: one status byte, then fields in little-endian order, written by `shim/codec.h`.

use bitcoin::consensus::encode::deserialize;
use bitcoin::hashes::Hash;
use bitcoin::{Amount, BlockHash, Txid, Wtxid};

use crate::error::KernelError;
use crate::ffi;

/// A block of memory that the shim allocated; freed on drop.
pub(crate) struct Answer(ffi::Buffer);

impl Answer {
    /// Takes ownership of a buffer the shim returned.
    pub(crate) fn new(buffer: ffi::Buffer) -> Self {
        Answer(buffer)
    }

    fn bytes(&self) -> &[u8] {
        if self.0.data.is_null() {
            return &[];
        }
        // SAFETY: the shim allocated `len` bytes at `data` and gave them to us.
        unsafe { std::slice::from_raw_parts(self.0.data, self.0.len) }
    }

    /// Splits status from fields: an error becomes `Err`.
    pub(crate) fn fields(&self) -> Result<Fields<'_>, KernelError> {
        let (status, rest) = self.bytes().split_first().ok_or(KernelError::Malformed("empty answer"))?;
        match *status {
            ffi::STATUS_OK => Ok(Fields { rest }),
            ffi::STATUS_NOT_RUNNING => Err(KernelError::NotRunning),
            ffi::STATUS_RPC_ERROR => {
                let mut fields = Fields { rest };
                fields.i64()?;
                Err(KernelError::Failed(fields.string()?))
            }
            _ => Err(KernelError::Failed(String::from_utf8_lossy(rest).into_owned())),
        }
    }

    /// Status and raw rest, for answers whose errors are data too.
    pub(crate) fn status_and_rest(&self) -> Result<(u8, &[u8]), KernelError> {
        let (status, rest) = self.bytes().split_first().ok_or(KernelError::Malformed("empty answer"))?;
        Ok((*status, rest))
    }

    /// The whole answer is nothing but success.
    pub(crate) fn done(&self) -> Result<(), KernelError> {
        self.fields().map(|_| ())
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: the buffer came from the shim and is freed once.
        unsafe { ffi::kl_free(self.0) }
    }
}

/// A cursor over the fields of an answer or notification.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Fields { rest: bytes }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], KernelError> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(KernelError::Malformed("short answer"))?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], KernelError> {
        self.take(N)?.try_into().map_err(|_| KernelError::Malformed("short field"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, KernelError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn bool(&mut self) -> Result<bool, KernelError> {
        Ok(self.u8()? != 0)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, KernelError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, KernelError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, KernelError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(crate) fn len(&mut self) -> Result<usize, KernelError> {
        usize::try_from(self.u32()?).map_err(|_| KernelError::Malformed("length"))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], KernelError> {
        let len = self.len()?;
        self.take(len)
    }

    pub(crate) fn string(&mut self) -> Result<String, KernelError> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    pub(crate) fn hash32(&mut self) -> Result<[u8; 32], KernelError> {
        self.array()
    }

    pub(crate) fn block_hash(&mut self) -> Result<BlockHash, KernelError> {
        Ok(BlockHash::from_byte_array(self.hash32()?))
    }

    pub(crate) fn txid(&mut self) -> Result<Txid, KernelError> {
        Ok(Txid::from_byte_array(self.hash32()?))
    }

    pub(crate) fn wtxid(&mut self) -> Result<Wtxid, KernelError> {
        Ok(Wtxid::from_byte_array(self.hash32()?))
    }

    pub(crate) fn amount(&mut self) -> Result<Amount, KernelError> {
        let sats = u64::try_from(self.i64()?).map_err(|_| KernelError::Malformed("negative amount"))?;
        Ok(Amount::from_sat(sats))
    }

    /// A length-prefixed value in consensus encoding.
    pub(crate) fn consensus<T: bitcoin::consensus::Decodable>(&mut self) -> Result<T, KernelError> {
        deserialize(self.bytes()?).map_err(|_| KernelError::Malformed("consensus encoding"))
    }

    /// A presence byte, then the value.
    pub(crate) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, KernelError>,
    ) -> Result<Option<T>, KernelError> {
        if self.bool()? { read(self).map(Some) } else { Ok(None) }
    }

    /// A count, then that many values.
    pub(crate) fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, KernelError>,
    ) -> Result<Vec<T>, KernelError> {
        let count = self.len()?;
        let mut out = Vec::new();
        for _ in 0..count {
            out.push(read(self)?);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_answers_are_errors_not_panics() {
        let mut fields = Fields::new(&[1, 0, 0]);
        assert_eq!(fields.u32(), Err(KernelError::Malformed("short answer")));
        let mut fields = Fields::new(&[255, 255, 255, 255]);
        assert!(fields.list(|f| f.u8()).is_err());
    }

    #[test]
    fn negative_amounts_are_refused() {
        let bytes = (-1i64).to_le_bytes();
        assert!(Fields::new(&bytes).amount().is_err());
    }
}
