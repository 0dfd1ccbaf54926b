//! Random names for requests.

/// 32 lowercase hexadecimal characters.
pub(crate) fn random_hex_32() -> String {
    format!("{:032x}", rand::random::<u128>())
}
