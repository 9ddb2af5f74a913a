public import Codecs

// Decisions of this module.
//
// - A device is cut into chunks of one fixed size, at multiples of it. Content-defined cutting finds moved data, but a
//   block device does not move data, and fixed places make an incremental update O(changed).
// - Hashes carry a prefix that says what is hashed, so that no chunk can pose as a node. The prefix has a version.
// - A chunk of zeros and a node without content have the id `Digest.zero` and no object: a sparse device of any size
//   has
//   a tree as small as its content.
// - A node has 256 children. Wider ones make an incremental backup rewrite more, narrower ones cost reads on the way
//   down; at 64 KiB a chunk a bottom node speaks for 16 MiB, and three levels for 1 TiB.

/// Identity of a chunk: a hash of its plain bytes.
public enum ChunkID {
    static let prefix = Array("godwit chunk 1\n".utf8)

    /// The id of a chunk; ``Digest/zero`` when it holds only zeros. The last chunk of a device whose size is not a
    /// multiple of the chunk's is filled up with zeros first.
    public static func of(_ plain: UnsafeRawBufferPointer) -> Digest {
        if unsafe isAllZeros(plain) { return .zero }
        return unsafe Digest.hash(prefix: prefix, plain)
    }
}

/// The digest that names the whole content of a device: of a restore point, or of a migrated disk.
public enum RootDigest {
    static let prefix = Array("godwit root 1\n".utf8)

    public static func of(byteCount: UInt64, chunkBytes: UInt32, top: Digest) -> Digest {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: byteCount)
        bytes.append(littleEndian: chunkBytes)
        bytes += top.bytes
        return Digest.hash(prefix: prefix, bytes)
    }
}
