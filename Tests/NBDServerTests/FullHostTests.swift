import AgentAPI
import BlockIO
import DeviceServer
import LinuxSystem
@testable import NBDServer
import TestSupport
import Testing

/// A host without space is never final: what needs some waits, everything else goes on.
@Suite(.enabled(if: isRoot, "mounting needs root"), .serialized, .timeLimit(.minutes(5)))
struct FullHostTests {
    private static let writes = 120
    /// Where nothing is allocated yet.
    private static let fresh: UInt64 = 16 << 20

    /// A disk on a small file system.
    private final class Bench {
        let folder: TemporaryFolder
        let mount: String
        let served: ServedExport

        init() throws {
            folder = try TemporaryFolder()
            mount = folder.file("full")
            try LinuxFileSystem().createFolder(mount)
            try expectTool("mount", "-t", "tmpfs", "-o", "size=24M", "tmpfs", mount)
            do { served = try ServedExport(in: mount) } catch {
                _ = try? runTool("umount", "-l", mount)
                throw error
            }
        }
        deinit { _ = try? runTool("umount", "-l", mount) }

        func client() throws -> RawClient {
            let client = try served.client()
            try client.connect(structured: true)
            return client
        }

        /// Takes all the space that is left.
        func fill() throws {
            _ = try runTool("dd", "if=/dev/zero", "of=\(mount)/filler", "bs=64k")
            _ = try runTool("dd", "if=/dev/zero", "of=\(mount)/filler.2", "bs=4k")
        }
        func makeSpace() throws {
            for name in ["filler", "filler.2"] { try? LinuxFileSystem().remove("\(mount)/\(name)") }
        }

        var isFull: Bool { get throws { try served.controller().status().isOutOfSpace == true } }

        func awaitFull(_ wanted: Bool) throws {
            let deadline = SystemTime().monotonic() + 30_000_000_000
            var none: [PollEntry] = []
            while try isFull != wanted, SystemTime().monotonic() < deadline {
                try pollDescriptors(&none, deadlineMilliseconds: 20)
            }
            #expect(try isFull == wanted)
        }
    }

    private func write(_ client: RawClient, _ index: Int, at base: UInt64, _ byte: UInt8, flags: UInt16 = 0) throws {
        try client.request(
            1, cookie: UInt64(index), offset: base + UInt64(index) << 16, count: 4096, flags: flags,
            payload: [UInt8](repeating: byte, count: 4096))
    }

    private func read(_ client: RawClient, at offset: UInt64) throws -> [UInt8] {
        try client.request(0, cookie: 9999, offset: offset, count: 4096)
        let chunk = try client.chunk()
        #expect(chunk.cookie == 9999 && chunk.type == 1)
        return Array(chunk.payload[8...])
    }

    /// What needs no space is answered beside what waits.
    private func expectOthersServed(_ client: RawClient) throws {
        #expect(try read(client, at: 0) == [UInt8](repeating: 1, count: 4096))
        try write(client, 0, at: 0, 1)
        #expect(try client.reply().error == 0)
        try client.request(3, cookie: 5, offset: 0, count: 0)
        #expect(try client.reply().error == 0)
        // A hint.
        try client.request(4, cookie: 6, offset: Self.fresh << 1, count: 1 << 20)
        #expect(try client.reply().error == 0)
    }

    @Test func `writes wait while the host is full, all else goes on, and they end well`() throws {
        let bench = try Bench()
        let client = try bench.client()
        let other = try bench.client()
        for index in 0..<8 {
            try write(client, index, at: 0, 1)
            #expect(try client.reply().error == 0)
        }
        for round in 0..<2 {
            try bench.fill()
            let base = Self.fresh + UInt64(round) << 23
            for index in 0..<Self.writes {
                try write(client, index, at: base, UInt8(index & 0x7f) + 2, flags: UInt16(index & 1))
            }
            try bench.awaitFull(true)
            for _ in 0..<20 { try expectOthersServed(other) }
            try bench.makeSpace()
            for _ in 0..<Self.writes { #expect(try client.reply().error == 0) }
            try bench.awaitFull(false)
            for index in 0..<Self.writes {
                let wanted = [UInt8](repeating: UInt8(index & 0x7f) + 2, count: 4096)
                #expect(try read(other, at: base + UInt64(index) << 16) == wanted)
            }
            _ = try bench.served.controller().perform(.compact(bytesPerSecond: 0))
        }
    }

    @Test func `a snapshot that has its own space is taken beside writes that wait`() throws {
        let bench = try Bench()
        let client = try bench.client()
        try write(client, 0, at: 0, 1)
        #expect(try client.reply().error == 0)
        try bench.fill()
        for index in 0..<32 { try write(client, index, at: Self.fresh, 2) }
        try bench.awaitFull(true)
        let control = try bench.served.controller()
        // Without space there is none, and that is told.
        #expect(throws: ControlError.self) { try control.perform(.prepareSnapshot) }
        try bench.makeSpace()
        try control.perform(.prepareSnapshot)
        _ = try control.commitSnapshot()
        for _ in 0..<32 { #expect(try client.reply().error == 0) }
        #expect(try read(client, at: Self.fresh) == [UInt8](repeating: 2, count: 4096))
    }

    @Test func `the disk's end ends the waiting`() throws {
        let bench = try Bench()
        let client = try bench.client()
        try bench.fill()
        for index in 0..<Self.writes { try write(client, index, at: Self.fresh, 2) }
        try bench.awaitFull(true)
        let waiting = try bench.served.controller()
        try waiting.perform(.shutdownForced)
        // Those that found space at the last moment are done.
        for _ in 0..<Self.writes { #expect([0, 108].contains(try client.reply().error)) }
    }

    @Test func `what a client that hung up has asked for is not done later, over what another one wrote`() throws {
        let bench = try Bench()
        let client = try bench.client()
        try bench.fill()
        for index in 0..<32 { try write(client, index, at: Self.fresh, 2) }
        try bench.awaitFull(true)
        client.hangUp()
        let next = try bench.client()
        try bench.awaitFull(false)
        try bench.makeSpace()
        for index in 0..<32 {
            try write(next, index, at: Self.fresh, 3)
            #expect(try next.reply().error == 0)
        }
        for index in 0..<32 {
            #expect(try read(next, at: Self.fresh + UInt64(index) << 16) == [UInt8](repeating: 3, count: 4096))
        }
    }
}
