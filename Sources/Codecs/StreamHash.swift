internal import CCrypto

/// SHA-256 of bytes that come in parts.
@safe public struct StreamHash: ~Copyable {
    private let context: OpaquePointer

    public init(prefix: [UInt8] = []) {
        guard let made = unsafe ccrypto_hash_new() else { preconditionFailure("libcrypto has SHA-256") }
        unsafe context = made
        update(prefix)
    }

    deinit { unsafe ccrypto_hash_free(context) }

    public func update(_ bytes: UnsafeRawBufferPointer) {
        let result = unsafe ccrypto_hash_update(context, bytes.baseAddress, UInt64(bytes.count))
        precondition(result == 0, "hashing memory does not fail")
    }

    public func update(_ bytes: [UInt8]) { unsafe bytes.withUnsafeBytes { unsafe update($0) } }

    public consuming func finish() -> Digest {
        let context = unsafe self.context
        discard self
        return unsafe withUnsafeTemporaryAllocation(byteCount: 32, alignment: 8) { out in
            let result = unsafe ccrypto_hash_finish(context, out.baseAddress)
            precondition(result == 0, "hashing memory does not fail")
            return unsafe Digest(loading: UnsafeRawBufferPointer(out))
        }
    }
}
