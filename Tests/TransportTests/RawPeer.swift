import Codecs
import LinuxSystem
import Transport

/// What a peer writes, built by hand: the tests' own implementation of godwit-peer(5).
enum RawPeer {
    static func frame(kind: UInt16, id: UInt32 = 0, payload: [UInt8] = []) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: UInt32(payload.count))
        bytes.append(littleEndian: kind)
        bytes.append(littleEndian: UInt16(0))
        bytes.append(littleEndian: id)
        bytes.append(littleEndian: payload.withUnsafeBytes { crc32c(0, $0) })
        bytes.append(littleEndian: bytes.withUnsafeBytes { crc32c(0, $0) })
        return bytes + payload
    }

    static func hello(versions: ClosedRange<UInt16> = 1...1, product: String = "test", window: UInt32 = 16 << 20)
        -> [UInt8]
    {
        var payload: [UInt8] = []
        payload.append(littleEndian: versions.lowerBound)
        payload.append(littleEndian: versions.upperBound)
        payload.append(littleEndian: window)
        payload.append(littleEndian: UInt32(30_000))
        payload.append(littleEndian: UInt64(0))
        payload.append(littleEndian: UInt16(product.utf8.count))
        payload += product.utf8
        return [UInt8]("godwit\r\n".utf8) + frame(kind: 1, payload: payload)
    }
}

extension ByteStream {
    func sayHello(versions: ClosedRange<UInt16> = 1...1, product: String = "test") throws {
        try writeAll(RawPeer.hello(versions: versions, product: product))
    }

    /// Reads, and drops, all that comes.
    func readToEnd() throws(TransportError) {
        var failure: TransportError?
        withUnsafeTemporaryAllocation(byteCount: 64 << 10, alignment: 16) { memory in
            do throws(TransportError) { while try read(into: memory) > 0 {} } catch { failure = error }
        }
        if let failure { throw failure }
    }

    func writeAll(_ bytes: [UInt8]) throws(TransportError) {
        var failure: TransportError?
        bytes.withUnsafeBytes { memory in
            do throws(TransportError) { try write(memory) } catch { failure = error }
        }
        if let failure { throw failure }
    }
}

/// Lets time pass where the passing of time itself is what is tested.
func waitForNothing(milliseconds: Int) throws {
    var none: [PollEntry] = []
    try pollDescriptors(&none, deadlineMilliseconds: milliseconds)
}

extension ByteStream {
    /// `count` bytes, fewer at the end of the stream.
    func readExactly(_ count: Int) throws(TransportError) -> [UInt8] {
        var failure: TransportError?
        let bytes = [UInt8](unsafeUninitializedCapacity: count) { memory, initialized in
            do throws(TransportError) {
                while initialized < count {
                    let rest = UnsafeMutableRawBufferPointer(
                        rebasing: UnsafeMutableRawBufferPointer(memory)[initialized...])
                    let got = try read(into: rest)
                    if got == 0 { return }
                    initialized += got
                }
            } catch { failure = error }
        }
        if let failure { throw failure }
        return bytes
    }
}
