@testable import AgentCore
import Backup
import BackupStore
import BlockIO
import ChunkTree
import Codecs
import LinuxSystem
import TestSupport
import Testing
import Transport

/// A client's channel to an agent in this process.
private func connect(_ limits: PeerLimits = PeerLimits(), in fs: any FileSystem = LinuxFileSystem()) throws -> (
    MessageChannel, OwnThread
) {
    let (near, far) = MemoryStream.pair()
    let agent = PeerAgent(fs: fs, limits: limits, product: "9.9", receiver: nil)
    let thread = try OwnThread(name: "agent") { try? agent.serve(far, peerName: "client") }
    return (try MessageChannel(stream: near, peerName: "agent"), thread)
}

@Suite struct PeerAgentTests {
    private func refusal(_ limits: PeerLimits, _ service: String, _ path: String, readOnly: Bool = false) throws
        -> String?
    {
        let (channel, thread) = try connect(limits)
        defer {
            channel.close()
            thread.join()
        }
        do throws(TransportError) {
            _ = try channel.open(ServiceRequest(service: service, path: path, isReadOnly: readOnly))
            return nil
        } catch {
            return error.peerCode ?? "\(error)"
        }
    }

    @Test func `the peer learns this version, and may leave at once`() throws {
        let (channel, thread) = try connect()
        #expect(try channel.greeting().product == "9.9")
        channel.close()
        thread.join()
    }

    @Test func `a store is no place for a disk, however it is reached`() throws {
        let folder = try TemporaryFolder()
        let fs = LinuxFileSystem()
        try LocalStore.create(
            at: folder.file("store"), uuid: "u", chunkBytes: TreeShape.chunkBytesStandard, in: fs)
        try expectTool("ln", "-s", folder.file("store/tmp"), folder.file("link"))
        var limits = PeerLimits()
        limits.rootFolder = folder.path
        let receiver = MigrationService.receiver(configuration: Configuration(), allowsCommands: false)
        for limits in [PeerLimits(), limits] {
            let agent = PeerAgent(fs: fs, limits: limits, product: "9.9", receiver: receiver)
            for name in ["store/disk", "store/tmp/disk", "store/packs/x", "link/disk", "store"] {
                let request = ServiceRequest(service: "migrate", path: folder.file(name), isReadOnly: false)
                guard case .failure(let refusal) = agent.admit(request) else {
                    Issue.record("\(name) was admitted")
                    continue
                }
                #expect(refusal.failure.code == "refused", "\(name)")
            }
            let beside = ServiceRequest(service: "migrate", path: folder.file("beside"), isReadOnly: false)
            guard case .success = agent.admit(beside) else {
                Issue.record("a free place was refused")
                continue
            }
        }
    }

    @Test func `unknown services are refused`() throws {
        #expect(try refusal(PeerLimits(), "shell", "/tmp") == "unsupported")
        #expect(try refusal(PeerLimits(), "migrate", "/tmp") == "unsupported")
    }

    @Test func `a confined login sees nothing outside of its folder`() throws {
        let folder = try TemporaryFolder()
        let fs = LinuxFileSystem()
        for name in ["allowed", "outside"] {
            try fs.createFolder(folder.file(name))
            try LocalStore.create(
                at: folder.file("\(name)/store"), uuid: "u-\(name)", chunkBytes: TreeShape.chunkBytesStandard, in: fs)
        }
        try expectTool("ln", "-s", folder.file("outside"), folder.file("allowed/escape"))
        try expectTool("ln", "-s", folder.file("outside/new"), folder.file("allowed/dangling"))
        var limits = PeerLimits()
        limits.storeFolder = folder.file("allowed")
        #expect(try refusal(limits, "store", folder.file("allowed/store")) == nil)
        #expect(try refusal(limits, "store", "store") == nil)
        for path in ["outside/store", "allowed/../outside/store", "allowed/escape/store", "allowedx"] {
            #expect(try refusal(limits, "store", folder.file(path)) == "forbidden", "\(path)")
        }
        #expect(try refusal(limits, "store", "../outside/store") == "forbidden")
        #expect(try refusal(limits, "create-store", "escape/new") == "forbidden")
        // What is outside is not told apart by what is there.
        #expect(try refusal(limits, "create-store", "dangling") == "forbidden")
        #expect(try refusal(limits, "create-store", "none/../../outside/new") == "forbidden")
        for path in ["outside/none/none", "allowed/escape/none/none", "none/none", "allowed/../none/../allowed"] {
            #expect(try refusal(limits, "store", folder.file(path)) == "forbidden", "\(path)")
        }
        #expect(try refusal(limits, "create-store", folder.file("allowed/../\u{301}new")) == "forbidden")
        #expect(try refusal(limits, "create-store", folder.file("allowed/escape/\u{301}new")) == "forbidden")
        #expect(try refusal(limits, "create-store", folder.file("allowed/./\u{301}new")) == nil)
        #expect(try refusal(limits, "create-store", "new") == nil)
        #expect(try refusal(limits, "store", "") == "invalid")
        #expect(try refusal(limits, "store", "a\0b") == "invalid")
    }

    @Test("a mark behind a slash, or another way to write a letter, leads no login out", arguments: [true, false])
    func characters(isStore: Bool) throws {
        let folder = try TemporaryFolder()
        let fs = LinuxFileSystem()
        let (one, other) = ("caf\u{e9}", "cafe\u{301}")
        for name in [one, other, "outside"] { try fs.createFolder(folder.file(name)) }
        for name in [one, other] {
            try LocalStore.create(
                at: folder.file("\(name)/store"), uuid: "u", chunkBytes: TreeShape.chunkBytesStandard, in: fs)
        }
        try expectTool("ln", "-s", folder.file("outside"), folder.file("\(one)/link"))
        var limits = PeerLimits()
        if isStore { limits.storeFolder = folder.file(one) } else { limits.rootFolder = folder.file(one) }
        let receiver = MigrationService.receiver(configuration: Configuration(), allowsCommands: false)
        let agent = PeerAgent(fs: fs, limits: limits, product: "9.9", receiver: receiver)
        func answer(_ path: String) -> String {
            let service = isStore ? "create-store" : "migrate"
            switch agent.admit(ServiceRequest(service: service, path: path, isReadOnly: false)) {
            case .success(let place): return place
            case .failure(let refusal): return refusal.failure.code
            }
        }
        for path in ["../\u{301}evil", "link/\u{301}evil", folder.file("\(other)/new"), folder.file("\(one)x")] {
            #expect(answer(path) == "forbidden", "\(path)")
        }
        #expect(answer("none/../\u{301}evil") == "forbidden")
        #expect(Array(answer("\u{301}good").utf8) == Array(folder.file("\(one)/\u{301}good").utf8))
        let stores = ServiceRequest(service: "store", path: folder.file("\(other)/store"), isReadOnly: true)
        guard case .failure(let refusal) = agent.admit(stores) else {
            Issue.record("a store beside the folder was opened")
            return
        }
        #expect(refusal.failure.code == "forbidden")
    }

    @Test func `a login that may only read changes nothing`() throws {
        let folder = try TemporaryFolder()
        try LocalStore.create(
            at: folder.file("store"), uuid: "u", chunkBytes: TreeShape.chunkBytesStandard, in: LinuxFileSystem())
        var limits = PeerLimits()
        limits.isReadOnly = true
        #expect(try refusal(limits, "store", folder.file("store"), readOnly: false) == "readOnly")
        #expect(try refusal(limits, "create-store", folder.file("new"), readOnly: true) == "readOnly")
        #expect(try refusal(limits, "store", folder.file("store"), readOnly: true) == nil)
    }

    @Test func `a folder without a store is named in the refusal`() throws {
        let folder = try TemporaryFolder()
        #expect(try refusal(PeerLimits(), "store", folder.path) == "notAStore")
    }

    @Test func `store locations read and print as users write them`() throws {
        #expect(try StoreLocation(parsing: "/srv/store") == .folder("/srv/store"))
        let place = try StoreLocation(parsing: "ssh://me@host:2222/srv/my%20store")
        #expect(
            place
                == .peer(
                    SSHTarget(user: "me", host: "host", port: 2222, path: "/srv/my store"), folder: "/srv/my store"))
        #expect(try StoreLocation(parsing: "ssh://host/~/store").description == "ssh://host/~/store")
        #expect(throws: TransportError.self) { try StoreLocation(parsing: "ssh://host") }
    }
}
