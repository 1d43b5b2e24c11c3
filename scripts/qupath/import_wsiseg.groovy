/*
 * Import what wsiseg found into the images of a QuPath project, slide by slide, by file name.
 *
 *   QuPath script -p project.qpproj --save -a OUT import_wsiseg.groovy
 *
 * OUT is the folder that "wsiseg segment -o OUT" wrote, as an absolute path. Without --save QuPath keeps nothing.
 * Objects of an earlier import are removed first (they carry the metadata source: wsiseg), so running it twice
 * doubles nothing. LOCKED objects stay: lock what you have corrected before you import again.
 * Written for QuPath 0.5.1 and later.
 */
import qupath.lib.io.GsonTools
import qupath.lib.io.PathIO
import static qupath.lib.scripting.QP.*

if (args.size() != 1)
    throw new IllegalArgumentException("give the folder of wsiseg's results: -a OUT")
def out = new File(args[0])
if (!out.isDirectory())
    throw new IllegalArgumentException("${out} is no folder: give wsiseg's results, -a OUT, as an absolute path")

def records = []
def look
look = { File folder ->
    def record = new File(folder, 'slide.json')
    if (record.isFile())
        records << [folder: folder, facts: GsonTools.getInstance().fromJson(record.getText('UTF-8'), Map)]
    folder.listFiles().findAll { it.isDirectory() && !it.name.startsWith('.') && !it.name.endsWith('.zarr') }.each { look(it) }
}
look(out)

def server = getCurrentServer()
def names = server.getURIs().collect { new File(it.getPath()).getName() }
def found = records.findAll { it.facts.slide.name in names }
if (found.isEmpty()) {
    println "${names}: wsiseg has no result for it in ${out}; left as it is"
    return
}
if (found.size() > 1)
    throw new IllegalStateException("${names} fits several results: ${found.collect { it.folder }}; give the folder of one")

def folder = found[0].folder
def slide = found[0].facts.slide
def cropped = found[0].facts.polygon_options.origin == 'qupath'
def size = (cropped ? slide.bounds[2..3] : [slide.width, slide.height]).collect { it as int }
if (size != [server.getWidth(), server.getHeight()])
    throw new IllegalStateException("${names} has ${server.getWidth()} x ${server.getHeight()} px here, but the outlines " +
        "were made for ${size}: run wsiseg polygons ${folder} --origin ${cropped ? 'level0' : 'qupath'}")

def file = ['tumor.geojson', 'tumor.geojson.gz'].collect { new File(folder, it) }.find { it.isFile() }
if (file == null)
    throw new FileNotFoundException("there is no tumor.geojson in ${folder}")
def objects = PathIO.readObjects(file)  // read first: where this fails, nothing has been removed
def recorded = found[0].facts.counts.polygons as int
if (objects.size() < recorded)  // a file that QuPath does not understand gives no object, and no error
    throw new IllegalStateException("${file} holds ${recorded} outlines, of which QuPath read ${objects.size()}; " +
        "nothing was changed: run wsiseg check ${file}")
def (kept, old) = getCurrentHierarchy().getAllObjects(false)
    .findAll { it.getMetadata().get('source') == 'wsiseg' }.split { it.isLocked() }
def corrected = kept.collect { it.getID() } as Set
def fresh = objects.findAll { !(it.getID() in corrected) }  // not the first draft over what you have corrected
removeObjects(old, true)
addObjects(fresh)
println "${names}: ${fresh.size()} objects imported, ${old.size()} of an earlier import removed, ${kept.size()} locked ones kept"
