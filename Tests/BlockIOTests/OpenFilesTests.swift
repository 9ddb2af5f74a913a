import BlockIO
import LinuxSystem
import TestSupport
import Testing

struct OpenFilesTests {
    /// Others' files are not this test's, so it looks for its own process.
    @Test func whoWritesThroughThePageCacheIsFound() throws {
        let folder = try TemporaryFolder()
        let files = LinuxFileSystem()
        let path = folder.file("file")
        let own = String(ownProcess())
        func isFound() throws -> Bool { try processesWritingCached(to: [path]).contains(own) }
        #expect(try !isFound())
        do {
            let writing = try files.open(path, OpenMode(writable: true, creation: .exclusive))
            #expect(try isFound())
            try writing.synchronize()
        }
        do {
            let reading = try files.open(path, .read)
            #expect(try !isFound())
            try reading.synchronize()
        }
        let direct = try files.open(path, OpenMode(writable: true, direct: true))
        // A file system without direct I/O gives one that is not.
        #expect(try isFound() == (direct.alignment == 1))
        try direct.synchronize()
    }
}
