import BlockIO
import Codecs
import LinuxSystem
@testable import Migration
import TestSupport
import Testing
import Transport

@Suite struct TargetChecksTests {
    private let temporary: TemporaryFolder
    private let fs = LinuxFileSystem()

    init() throws { temporary = try TemporaryFolder() }

    private func problems(_ change: (inout MigrationOffer) -> Void = { _ in }) throws -> [String] {
        var offer = MigrationOffer(
            identity: "disk", sizeBytes: 1 << 30, clusterBytes: 1 << 20, imageVersion: 2, usedBytes: 1 << 20,
            chunkBytes: 65536)
        change(&offer)
        let place = TargetPlace(folder: temporary.file("disk"), fs: fs, disks: DiskFolders(fs: fs))
        return try place.problems(offer).problems
    }

    @Test("a free name has nothing in its way, and the look leaves nothing")
    func free() throws {
        #expect(try problems() == [])
        #expect(try fs.list(temporary.file(".")) == [])
    }

    @Test("a link that leads nowhere, one that leads somewhere, a file and a folder are all in the way")
    func names() throws {
        try expectTool("ln", "-s", "/nowhere/at/all", temporary.file("disk"))
        #expect(try problems().first?.contains("leads nowhere") == true)
        try fs.remove(temporary.file("disk"))
        try fs.createFolder(temporary.file("real"))
        try expectTool("ln", "-s", temporary.file("real"), temporary.file("disk"))
        #expect(try problems().first?.contains("exists already") == true)
        try fs.remove(temporary.file("disk"))
        _ = try fs.open(temporary.file("disk"), OpenMode(writable: true, creation: .exclusive))
        #expect(try problems().first?.contains("exists already") == true)
    }

    @Test("a partial folder that is a link, or no folder, is not written to")
    func partials() throws {
        try fs.createFolder(temporary.file("real"))
        try expectTool("ln", "-s", temporary.file("real"), temporary.file("disk.godwit-partial"))
        #expect(try problems().first?.contains("symbolic link") == true)
        try fs.remove(temporary.file("disk.godwit-partial"))
        try expectTool("ln", "-s", "/nowhere/at/all", temporary.file("disk.godwit-partial"))
        #expect(try problems().first?.contains("no folder") == true)
        try fs.remove(temporary.file("disk.godwit-partial"))
        _ = try fs.open(temporary.file("disk.godwit-partial"), OpenMode(writable: true, creation: .exclusive))
        #expect(try problems().first?.contains("no folder") == true)
    }

    @Test("offers with any numbers are answered")
    func numbers() throws {
        let numbers: [UInt64] = [0, 1, 4096, 1 << 50, 1 << 62, .max - 1, .max]
        for size in numbers {
            for used in numbers {
                for cluster in numbers {
                    let found = try problems {
                        $0.sizeBytes = size
                        $0.usedBytes = used
                        $0.clusterBytes = cluster
                    }
                    if used >= 1 << 62 || size == 0 || size > 1 << 50 { #expect(!found.isEmpty) }
                }
            }
        }
        for chunk in [0, 1, 4095, 4096, 1 << 21, .max] as [UInt32] {
            #expect(try problems { $0.chunkBytes = chunk }.isEmpty == (chunk == 4096))
        }
        for identity in ["", "../..", "a b", String(repeating: "x", count: 65)] {
            #expect(try !problems { $0.identity = identity }.isEmpty)
        }
    }

    @Test("an offer of another version is answered with that alone")
    func versions() throws {
        let found = try problems {
            $0.protocolVersion = 1
            $0.sizeBytes = 0
        }
        #expect(found.count == 1 && found[0].contains("version 1") && found[0].contains("have 2"))
    }

    @Test("requests cut and bent at any place are answered, and end nothing")
    func bentRequests() throws {
        let host = TargetHost(fs: SimulatedFileSystem(), folder: "/disk")
        let offer = MigrationOffer(
            identity: "disk", sizeBytes: 1 << 20, clusterBytes: 1 << 20, imageVersion: 2, usedBytes: 0,
            chunkBytes: 65536)
        let commit = MigrationCommit(identity: "disk", attempt: "one", root: "00", sizeBytes: 1)
        let requests: [MigrationRequest] = [
            .check(offer), .begin(offer, attempt: "one"), .sync, .prepare, .commit(commit), .abort, .ping,
        ]
        var random = SeededRandom("bent requests of a migration")
        for request in requests {
            let bytes = encodeJSON(request)
            let peer = try host.connect()
            _ = try peer.open(ServiceRequest(service: "migrate", path: host.folder, isReadOnly: false))
            for _ in 0..<60 {
                var bent = bytes
                switch random.below(3) {
                case 0: bent.removeLast(random.below(bent.count) + 1)
                case 1: bent[random.below(bent.count)] ^= 1 << UInt8(random.below(8))
                default:
                    let start = random.below(bent.count)
                    bent.replaceSubrange(start..., with: [UInt8]("18446744073709551615}}}".utf8))
                }
                #expect(try answer(peer, bent) != nil, "seed \(random.seed)")
            }
            // Still there.
            #expect(try answer(peer, encodeJSON(MigrationRequest.ping)) == MigrationMessage.reply)
            peer.close()
            host.settle()
        }
    }

    /// - Returns: the kind of the answer.
    private func answer(_ peer: any MessagePeer, _ payload: [UInt8]) throws -> UInt16? {
        try peer.send(Message(kind: MigrationMessage.request, id: 7, payload: payload))
        while let message = try peer.receive() {
            if message.kind == MigrationMessage.reply || message.kind == ServiceFailure.kind { return message.kind }
        }
        return nil
    }
}
