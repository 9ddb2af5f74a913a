import BlockIO
import Geometry
import Glibc
import ImageFormat
import LinuxSystem
import SystemPackage
import TestSupport
import Testing

@testable import DiskImage

/// Images that were cut or altered, opened and used: an error or the right content, and an end in any case.
@Suite struct HostileImageTests {
    private static let image = "/disk/root.hds"
    private static let clusterBytes = 32 << 10
    private static let byteCount = 64 * clusterBytes
    private static let written = [0, 1, 2, 7, 8, 40, 63]

    /// A closed disk with some clusters, and its content.
    private func prepared(_ version: Int) throws -> (fs: SimulatedFileSystem, content: [UInt8]) {
        let fs = SimulatedFileSystem()
        var options = CreateOptions(byteCount: UInt64(Self.byteCount), clusterSize: .smallest)
        options.version = version == 1 ? .v1 : .v2
        try createDisk(at: "/disk", options: options, in: fs)
        var content = [UInt8](repeating: 0, count: Self.byteCount)
        var random = SeededRandom(seed: 9)
        let disk = try Disk.open("/disk", in: fs)
        for cluster in Self.written {
            let bytes = random.bytes(Self.clusterBytes)
            try bytes.withUnsafeBytes { try disk.write(at: UInt64(cluster * Self.clusterBytes), from: $0) }
            content.replaceSubrange(cluster * Self.clusterBytes..<(cluster + 1) * Self.clusterBytes, with: bytes)
        }
        try disk.close()
        return (fs, content)
    }

    /// Reads each cluster by itself. - Returns: those that were read with other content than they had.
    private func wrongClusters(_ disk: Disk, _ content: [UInt8]) throws -> [Int] {
        var wrong: [Int] = []
        var bytes = [UInt8](repeating: 0xee, count: Self.clusterBytes)
        for cluster in 0..<64 where UInt64((cluster + 1) * Self.clusterBytes) <= disk.byteCount {
            do throws(DiskError) {
                var failure: DiskError?
                bytes.withUnsafeMutableBytes { memory in
                    do throws(DiskError) { try disk.read(at: UInt64(cluster * Self.clusterBytes), into: memory) } catch
                    {
                        failure = error
                    }
                }
                if let failure { throw failure }
            } catch {
                #expect(!error.message.isEmpty)
                continue
            }
            let start = cluster * Self.clusterBytes
            let expected = Array(content[start..<start + Self.clusterBytes])
            if memcmp(bytes, expected, Self.clusterBytes) != 0 { wrong.append(cluster) }
        }
        return wrong
    }

    /// Opens the disk, reads all, writes, and closes it. - Returns: clusters with wrong content; `nil`: it was refused.
    private func use(_ fs: SimulatedFileSystem, _ content: [UInt8], writes: Bool) throws -> [Int]? {
        let disk: Disk
        do throws(DiskError) { disk = try Disk.open("/disk", in: fs, options: writes ? .standard : .readOnly) } catch {
            #expect(!error.message.isEmpty)
            return nil
        }
        var wrong = try wrongClusters(disk, content)
        if writes { wrong += try change(disk, content) }
        try? disk.close()
        return wrong
    }

    /// Writes, flushes, discards. - Returns: clusters with wrong content after it.
    private func change(_ disk: Disk, _ content: [UInt8]) throws -> [Int] {
        var expected = content
        let bytes = [UInt8](repeating: 0x5a, count: 8192)
        for cluster in [1, 30] {
            let start = cluster * Self.clusterBytes + 4096
            guard UInt64(start + bytes.count) <= disk.byteCount else { continue }
            do throws(DiskError) {
                var failure: DiskError?
                bytes.withUnsafeBytes { memory in
                    do throws(DiskError) {
                        try disk.write(at: UInt64(start), from: memory)
                        try disk.flush()
                    } catch { failure = error }
                }
                if let failure { throw failure }
                expected.replaceSubrange(start..<start + bytes.count, with: bytes)
            } catch {
                // Refused for the damage, not half done.
                #expect(error.code == .corrupt, "\(error)")
            }
        }
        var wrong = try wrongClusters(disk, expected)
        let half = UInt64(Self.byteCount / 2)
        if disk.byteCount >= half, (try? disk.discard(ByteRange(offset: 0, count: half))) != nil {
            expected.replaceSubrange(0..<Int(half), with: repeatElement(0, count: Int(half)))
            wrong += try wrongClusters(disk, expected)
        }
        return wrong
    }

    @Test(
        "a flipped bit of header or table is refused, or harms no other cluster; writing ends too", arguments: [1, 2])
    func bitFlips(version: Int) throws {
        let (state, content) = try prepared(version)
        #expect(try use(state.duplicate(), content, writes: true) == [])
        var random = SeededRandom("flipped bits of an image, version \(version)")
        let entries =
            (64 * 8..<(64 + 4 * 9) * 8).map { $0 } + (0..<60).map { _ in (64 + 36) * 8 + random.below(55 * 32) }
        var (refused, used) = (0, 0)
        for bit in Array(0..<64 * 8) + entries {
            let fs = state.duplicate()
            let file = try fs.open(Self.image, .update)
            let byte = UInt64(bit / 8)
            try file.writeBytes([try file.readBytes(at: byte, count: 1)[0] ^ 1 << UInt8(bit % 8)], at: byte)
            let wrong = try use(fs, content, writes: true)
            guard let wrong else {
                refused += 1
                continue
            }
            used += 1
            // A bit of the header says nothing of any cluster's place, and one of another entry nothing of this one's.
            let own = bit < 64 * 8 ? nil : (bit / 8 - 64) / 4
            #expect(wrong.allSatisfy { $0 == own }, "bit \(bit): clusters \(wrong)")
        }
        #expect(refused > 100 && used > 100, "\(refused) refused, \(used) used")
    }

    @Test("an image that is cut anywhere is refused, or what is read of it is right", arguments: [1, 2])
    func truncations(version: Int) throws {
        let (state, content) = try prepared(version)
        #expect(try use(state.duplicate(), content, writes: true) == [])
        var random = SeededRandom("cut images, version \(version)")
        let size = Int(try state.open(Self.image, .read).size())
        var cuts = [0, 1, 63, 64, 100, 511, 512, 4096, Self.clusterBytes - 1, Self.clusterBytes, size - 1]
        for cluster in 2...Self.written.count {
            cuts += [cluster * Self.clusterBytes - 512, cluster * Self.clusterBytes]
        }
        cuts += (0..<20).map { _ in random.below(size) }
        for cut in Set(cuts).sorted() where cut < size {
            for writes in [false, true] {
                let fs = state.duplicate()
                try fs.open(Self.image, .update).truncate(to: UInt64(cut))
                let wrong = try use(fs, content, writes: writes)
                #expect(wrong ?? [] == [], "cut to \(cut) of \(size), \(writes ? "writing" : "reading")")
            }
        }
    }
}
